"""What a converted checkpoint says of itself, whatever its original left out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.conversions import apply_delta, convert_v1, convert_v15, make_delta
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.llava_med_v15 import V15Options
from modeling.checkpoints.output_folder import MANIFEST
from modeling.checkpoints.tensor_source import TensorSource
from modeling.checkpoints.towers import Tower, why_not_trained_with
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


ODD_V1 = {
    "no layer of the tower": ({"mm_vision_select_layer": -99}, "outside a tower of 3 layers"),
    "an unknown activation": ({"hidden_act": "nonsense"}, "'nonsense' is not known"),
    "an unknown image mode": ({"image_aspect_ratio": "anyres"}, "--image-aspect-ratio"),
    "no heads": ({"num_attention_heads": 0}, "value that no model has"),
    "a context of words": ({"max_sequence_length": "many"}, "value that no model has"),
    "a width of words": ({"hidden_size": "abc"}, "value that no model has"),
    "a norm of words": ({"rms_norm_eps": "1e-6"}, "value that no model has"),
    "another tower": (
        {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "(336 px), and",
    ),
    "another kind of tower": (
        {"mm_vision_tower": "microsoft/BiomedCLIP"}, "is another kind of tower",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_V1)
def test_odd_values_of_v1_are_one_line(name: str, tmp_path: Path):
    changes, words = ODD_V1[name]
    source = originals.write_v1(tmp_path / "v1")
    (source / "config.json").write_text(json.dumps(config_of(source) | changes))
    with pytest.raises(CheckpointError) as failure:
        converted(tmp_path, source)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("key", ["mm_vision_select_layer", "max_position_embeddings"])
def test_null_is_as_good_as_missing(key: str, tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    config = config_of(source) | {key: None}
    (source / "config.json").write_text(json.dumps(config))
    config = config_of(converted(tmp_path, source))
    assert config["vision_feature_layer"] == -2
    assert config["text_config"]["max_position_embeddings"] == 2048


ODD_TOWERS = {
    "no vision": ({"vision_config": None}, "describes no vision tower"),
    "heads that divide nothing": ({"vision_config": {"num_attention_heads": 7}}, "7 attention"),
}


@pytest.mark.parametrize("name", ODD_TOWERS)
def test_odd_values_of_a_tower_are_one_line(name: str, tmp_path: Path):
    changes, words = ODD_TOWERS[name]
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    config = json.loads((tower / "config.json").read_text()) | changes
    (tower / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        convert_v1(source, tower, V1Options(), job(tmp_path / "hf"))


def test_a_mean_that_is_no_colour_is_one_line(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    (tower / "preprocessor_config.json").write_text('{"image_mean": 3}')
    with pytest.raises(CheckpointError, match="three numbers each"):
        convert_v1(source, tower, V1Options(), job(tmp_path / "hf"))


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16])
def test_the_stock_tower_is_known_although_it_was_rounded(
    dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tensors = originals.v15_tensors()
    prefix = "model.vision_tower.vision_tower.vision_model."
    same = originals.clip_tensors(originals.MISTRAL_SIZES, seed=7, prefix=prefix)
    tensors |= {name: tensor for name, tensor in same.items() if name in tensors}
    source = originals.write_v15(tmp_path / "v15", tensors=tensors, dtype=dtype)
    tower = originals.write_clip(tmp_path / "clip", originals.MISTRAL_SIZES)  # float32
    convert_v15(source, tower, V15Options("checkpoint"), job(tmp_path / "hf"))
    assert "equals the stock one in all 55 tensors" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.extra.weight", "model.mm_projector.4.weight"])
def test_a_tensor_that_v15_has_not_is_refused(name: str, tmp_path: Path):
    tensors = originals.v15_tensors() | {name: torch.ones(2)}
    source = originals.write_v15(tmp_path / "v15", tensors=tensors)
    with pytest.raises(CheckpointError, match=f"holds '{name}'"):
        convert_v15(source, None, V15Options("checkpoint"), job(tmp_path / "hf"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("mm_projector_type", "mlp3x_gelu"), ("mm_vision_select_feature", "cls_patch")],
)
def test_other_features_than_v15_has_are_refused(key: str, value: str, tmp_path: Path):
    source = originals.write_v15(tmp_path / "v15")
    config = json.loads((source / "config.json").read_text()) | {key: value}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{key} is '{value}'"):
        convert_v15(source, None, V15Options("checkpoint"), job(tmp_path / "hf"))


def test_a_stock_tower_of_another_resolution_is_refused(tmp_path: Path):
    tensors = {n: t for n, t in originals.v15_tensors().items() if "vision_tower" not in n}
    source = originals.write_v15(tmp_path / "v15", tensors=tensors)
    tower = originals.write_clip(tmp_path / "clip", originals.Sizes(image_px=28))
    with pytest.raises(CheckpointError, match=r"\(56 px\), and"):
        convert_v15(source, tower, V15Options("stock"), job(tmp_path / "hf"))


def test_published_names_of_towers_say_their_resolution():
    tower = make_tower(336)
    assert why_not_trained_with(tower, "openai/clip-vit-large-patch14-336") is None
    assert "224 px" in (why_not_trained_with(tower, "openai/clip-vit-large-patch14") or "")
    assert why_not_trained_with(make_tower(224), "openai/clip-vit-large-patch14") is None


def make_tower(side_px: int) -> Tower:
    source = TensorSource(Path("clip"), {})
    return Tower("clip_vision_model", {}, source, {}, side_px)
