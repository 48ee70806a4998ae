"""What a converted checkpoint says of itself, whatever its original left out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.checkpoints.conversions import apply_delta, convert_v1, make_delta
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.output_folder import MANIFEST
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import job
from tests.modeling.test_converted_logits import (
    PROMPTS,
    TOLERANCE,
    V1,
    clip_images,
    converted_logits,
    difference,
    read_original,
)

HALF = torch.float16


def without(folder: Path, *keys: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in keys}
    (folder / "config.json").write_text(json.dumps(kept))


def converted(tmp_path: Path, source: Path, options: V1Options | None = None) -> Path:
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(source, tower, options or V1Options(), job(tmp_path / "hf"))
    return tmp_path / "hf"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_a_delta_and_its_base_become_a_model_with_the_logits_of_their_sum(tmp_path: Path):
    base = originals.write_llama(tmp_path / "llama")
    target = originals.write_v1(tmp_path / "target", dtype=HALF)
    make_delta(base, target, job(tmp_path / "delta"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))
    hf = converted(tmp_path, tmp_path / "merged", V1Options(dtype="F32"))

    ours, deltas = read_original(base), read_original(tmp_path / "delta")
    summed = {}
    for name, tensor in deltas.items():
        summed[name] = tensor.clone()
        if name in ours:
            summed[name][: len(ours[name])] += ours[name]
    expected = V1(originals.write_v1(tmp_path / "summed", tensors=summed), clip_images)
    prompt = PROMPTS["image first"]
    logits, token_ids = converted_logits(hf, prompt)
    run = expected.run(prompt)
    assert token_ids == run.token_ids
    assert difference(logits, run.logits) <= TOLERANCE


def test_the_old_name_of_the_context_is_understood(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1", max_sequence_length=512)
    hf = converted(tmp_path, source)
    assert config_of(hf)["text_config"]["max_position_embeddings"] == 512
    assert json.loads((hf / "tokenizer_config.json").read_text())["model_max_length"] == 512


def test_an_older_config_is_completed_as_published_runs_were(tmp_path: Path):
    """LLaVA v0's says neither the layer nor the tokens around images, and its code then errs."""
    source = originals.write_v1(tmp_path / "v1")
    without(source, "mm_vision_select_layer", "mm_use_im_start_end", "mm_vision_tower")
    hf = converted(tmp_path, source)

    assert config_of(hf)["vision_feature_layer"] == -2
    assert "<im_start><im_patch><im_end>" in (hf / "chat_template.jinja").read_text()
    notes = " ".join(json.loads((hf / MANIFEST).read_text())["notes"])
    assert "no mm_vision_select_layer" in notes
    assert "no mm_use_im_start_end" in notes


def test_images_without_start_and_end_are_bare_patches(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1", mm_use_im_start_end=False)
    template = (converted(tmp_path, source) / "chat_template.jinja").read_text()
    assert "<im_patch>" in template
    assert "<im_start>" not in template


def test_without_a_padding_token_the_unknown_one_pads(tmp_path: Path):
    """As in LLaVA-Lightning, whose three tokens begin where [PAD] stands elsewhere."""
    source = originals.write_v1(tmp_path / "v1")
    added = {"<im_patch>": 420, "<im_start>": 421, "<im_end>": 422}
    (source / "added_tokens.json").write_text(json.dumps(added))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "special_tokens_map.json").write_text(json.dumps(special))
    config = config_of(converted(tmp_path, source))

    assert config["image_token_index"] == 420
    assert config["text_config"]["pad_token_id"] == 0
    assert config["text_config"]["bos_token_id"] == 1


@pytest.mark.parametrize(("name", "dtype"), [("F16", HALF), ("BF16", torch.bfloat16)])
def test_weights_are_of_the_type_that_was_asked_for(name: str, dtype: torch.dtype, tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    hf = converted(tmp_path, source, V1Options(dtype=name))
    for file in hf.glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    assert config_of(hf)["dtype"] == str(dtype).removeprefix("torch.")


def test_the_published_stop_is_stored_where_engines_read_it(tmp_path: Path):
    hf = converted(tmp_path, originals.write_v1(tmp_path / "v1"))
    generation = json.loads((hf / "generation_config.json").read_text())
    assert generation["stop_strings"] == ["###"]
    assert generation["bos_token_id"] == generation["eos_token_id"] == 2
