import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.tiny import SPECIAL_TOKENS, main, make_tiny_llava, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("tiny") / "llava")


def test_keys_are_the_published_ones(checkpoint: Path) -> None:
    keys = load_file(checkpoint / "model.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    }
    assert all(
        key.startswith("vision_tower.vision_model.")
        for key in keys
        if key.startswith("vision_tower.")
    )


def test_every_weight_is_loaded_again(checkpoint: Path) -> None:
    loaded: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    report = loaded[1]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_sizes_can_be_split_in_two(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert config["image_token_index"] == 3
    assert text["vocab_size"] % 64 == 0
    assert text["num_key_value_heads"] % 2 == vision["num_attention_heads"] % 2 == 0


def test_special_tokens_have_the_first_ids(checkpoint: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(checkpoint, backend="pil").tokenizer
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    text = "größe \N{HEAVY BLACK HEART} \x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_content_may_be_a_string_or_parts(checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    parts = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    strings = [{**message, "content": message["content"][0]["text"]} for message in parts]
    rendered = processor.apply_chat_template(parts, add_generation_prompt=True)
    assert rendered == processor.apply_chat_template(strings, add_generation_prompt=True)
    assert rendered == "<s>Be brief. USER: Hello ASSISTANT: Hi</s>USER: And? ASSISTANT:"


def test_images_stand_in_the_order_of_the_parts(checkpoint: Path) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    content = [{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": "b"}]
    rendered = processor.apply_chat_template([{"role": "user", "content": content}])
    assert rendered == "<s>USER: a <image>\nb "


def test_the_same_seed_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    again = make_tiny_llava(tmp_path / "again")
    other = make_tiny_llava(tmp_path / "other", seed=1)
    assert (again / "model.safetensors").read_bytes() == (
        checkpoint / "model.safetensors"
    ).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (
        checkpoint / "model.safetensors"
    ).read_bytes()


def test_an_image_side_must_hold_whole_patches(tmp_path: Path) -> None:
    for image_px in (0, 57):
        with pytest.raises(ValueError, match="multiple of 14"):
            make_tiny_llava(tmp_path / "new", image_px=image_px)


def test_nothing_is_left_of_a_failed_attempt(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        make_tiny_llava(tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    with pytest.raises(AttributeError):
        write_checkpoint(tmp_path / "new", model, None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_command_line_writes_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "llava"
    main([str(out), "--image", "28", "--dtype", "bfloat16", "--seed", "3"])
    assert json.loads(capsys.readouterr().out)["checkpoint"] == str(out)
    tensors = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    main([str(out), "--image", "28", "--force"])
    assert load_file(out / "model.safetensors")["language_model.lm_head.weight"].dtype == (
        torch.float32
    )
