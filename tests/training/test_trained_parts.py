"""A recipe changes what it says and nothing else, at the rates that it says."""

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.adapter_files import AdapterError, open_adapter
from modeling.checkpoint_files import open_checkpoint
from tests.modeling.conftest import Converted
from tests.training.llava_med_records import write_list
from tests.training.small_runs import (
    IMAGE_PX,
    Workshop,
    changed_tensors,
    log_of,
    losses_of,
    make_records,
    run,
    tensors_of,
)
from training.config import TrainConfig
from training.errors import TrainingError
from training.finished import ADAPTER_FOLDER, TRAINING_FILE

PROJECTOR = {"train__language_model": "frozen"}
LORA = {"train__language_model": "lora"}
ROW = "language_model.model.embed_tokens.weight"


def is_of(name: str, *parts: str) -> bool:
    return name.startswith(parts)


def test_stage_1_changes_the_projector_alone(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", **PROJECTOR)
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert changed == {
        name for name in tensors_of(workshop.base) if "multi_modal_projector" in name
    }


def test_stage_2_changes_all_but_the_tower(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out")
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert changed == {name for name in tensors_of(workshop.base) if "vision_tower" not in name}


def test_a_tower_is_trained_where_a_recipe_says_so(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(
        tmp_path / "out", **PROJECTOR, train__projector=False, train__vision_tower=True
    )
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert changed
    assert all("vision_tower" in name for name in changed)


def test_the_new_tokens_of_llava_med_v1_are_trained_and_no_other_row(v1: Converted, tmp_path: Path):
    records = write_list(tmp_path / "records.json", make_records()[:6])
    config = TrainConfig.model_validate(
        {
            "name": "v1",
            "model": {"path": v1.hf, "precision": "fp32", "gradient_checkpointing": True},
            "train": {"new_tokens": ["<im_start>", "<im_end>", "<not_there>"]},
            "data": {"files": [records], "image_folder": _images(tmp_path), "workers": 0},
            "batch": {"examples": 3},
            "optimizer": {"learning_rate": 2e-3},
            "output": {"folder": tmp_path / "out", "dtype": "float32"},
        }
    )
    run(config)
    tokenizer: Any = AutoProcessor.from_pretrained(v1.hf).tokenizer
    ids = sorted(tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]))
    before, after = _all_tensors(v1.hf), _all_tensors(tmp_path / "out")
    rows = (before[ROW].float() != after[ROW]).any(dim=1).nonzero().flatten().tolist()
    assert rows == ids
    for name in before.keys() - {ROW}:
        is_same = torch.equal(before[name].float(), after[name])
        # The second layer was put there by conversion: v1.0's projector is one layer.
        is_trained = "multi_modal_projector.linear_1" in name
        assert is_same != is_trained, name


def test_a_tower_is_trained_beside_adapters_too(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", **LORA, train__vision_tower=True)
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert any("vision_tower" in name for name in changed)


def _images(folder: Path) -> Path:
    from PIL import Image  # noqa: PLC0415

    (folder / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 30), (90 * number, 10, 200)).save(folder / f"images/{number}.png")
    return folder / "images"


def _all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


# ---------------------------------------------------------------------------------------- LoRA


@pytest.fixture(scope="module")
def lora(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = workshop.recipe(
        tmp_path_factory.mktemp("lora") / "out", **LORA, optimizer__learning_rate=1e-2
    )
    run(config)
    return config


def test_lora_changes_the_language_models_layers_and_the_projector(
    workshop: Workshop, lora: TrainConfig
):
    changed = changed_tensors(workshop.base, lora.output.folder)
    assert changed == {
        name
        for name in tensors_of(workshop.base)
        if ("_proj.weight" in name and "language_model" in name) or "multi_modal_projector" in name
    }


@torch.no_grad()
def test_the_merged_checkpoint_is_what_peft_merges(
    workshop: Workshop, lora: TrainConfig, prompt: dict[str, torch.Tensor]
):
    base: Any = AutoModelForImageTextToText.from_pretrained(workshop.base)
    adapter = lora.output.folder / ADAPTER_FOLDER
    merged = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    projector = load_file(adapter / "projector.safetensors")
    merged.load_state_dict(projector, strict=False)
    ours: Any = AutoModelForImageTextToText.from_pretrained(lora.output.folder)
    expected = dict(merged.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=0, msg=name)
    torch.testing.assert_close(ours(**prompt).logits, merged(**prompt).logits, atol=1e-4, rtol=1e-5)


def test_the_adapter_is_served_without_its_projector_by_nobody(
    workshop: Workshop, lora: TrainConfig
):
    adapter, base = lora.output.folder / ADAPTER_FOLDER, open_checkpoint(workshop.base)

    with pytest.raises(AdapterError, match="was trained together with a projector"):
        open_adapter(adapter, base, "base", 64, lambda: "")
    assert open_adapter(adapter, base, "base", 64, lambda: "", is_merged=True).rank == 4


def test_lora_without_a_projector_changes_the_language_model_alone(
    workshop: Workshop, tmp_path: Path
):
    config = workshop.recipe(tmp_path / "out", **LORA, train__projector=False)
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert changed
    assert all("language_model" in name for name in changed)
    base, adapter = open_checkpoint(workshop.base), config.output.folder / ADAPTER_FOLDER
    assert open_adapter(adapter, base, "base", 64, lambda: "").rank == 4  # it may be served


def test_layers_that_are_not_there_are_said(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", **LORA, lora__target_modules=("no_such",))
    with pytest.raises((TrainingError, ValueError), match="no_such"):
        run(config)


def test_a_base_in_4_bits_is_trained_and_loses_nothing(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(
        tmp_path / "out", **LORA, model__quantisation="nf4", optimizer__learning_rate=1e-2
    )
    run(config)
    losses = losses_of(config)
    assert losses[-1] < losses[0]
    untouched = {
        name for name in tensors_of(workshop.base) if "norm" in name or "embed_tokens" in name
    }
    assert not untouched & changed_tensors(workshop.base, config.output.folder)


# --------------------------------------------------------------------------------- the output


@pytest.fixture
def prompt(workshop: Workshop) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[1, *[3] * 4, 70, 71, 72, 90]])
    pixels = torch.randn((1, 3, IMAGE_PX, IMAGE_PX), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.fixture(scope="module")
def full(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = workshop.recipe(tmp_path_factory.mktemp("full") / "out")
    run(config)
    return config


def test_the_result_holds_the_very_numbers_that_were_trained(full: TrainConfig):
    kept = load_file(
        full.output.folder.parent / "out.training/checkpoint-6/trained-00000.safetensors"
    )
    model: Any = AutoModelForImageTextToText.from_pretrained(full.output.folder)
    loaded = dict(model.named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in kept.items())
    assert set(loaded) - set(kept) == {name for name in loaded if "vision_tower" in name}


def test_small_files_are_the_bases_own(workshop: Workshop, full: TrainConfig):
    for file in workshop.base.iterdir():
        if file.suffix != ".safetensors":
            assert (full.output.folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_it_is_written_down_how_the_result_was_made(full: TrainConfig):
    facts = json.loads((full.output.folder / TRAINING_FILE).read_text("utf-8"))
    assert facts["run"]["recipe"]["optimizer"]["learning_rate"] == 2e-3
    assert len(facts["run"]["data_hash"]) == 64
    assert facts["run"]["num_examples"] == 26
    assert facts["run"]["base"]["fingerprint"]
    assert {"torch", "transformers", "peft", "python"} <= facts["versions"].keys()
    assert facts["commit"] is None or len(facts["commit"].removesuffix("-dirty")) == 40
    assert facts["problems"] == {}
    assert "galen" in facts["tool"]


def test_the_result_has_the_type_that_was_asked_for(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", output__dtype="bfloat16")
    run(config)
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8"))["dtype"] == "bfloat16"


# ------------------------------------------------------------------------------------- the rates


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_of_each_step_follows_the_schedule(
    workshop: Workshop, tmp_path: Path, schedule: str
):
    config = workshop.recipe(
        tmp_path / "out", **PROJECTOR, optimizer__schedule=schedule, optimizer__warmup_share=0.3
    )
    run(config)
    total, warmup, peak = 6, math.ceil(0.3 * 6), 2e-3

    def rate(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        done = (step - warmup) / (total - warmup)
        left = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
        return peak * left[schedule]

    found = [line["learning_rate"] for line in log_of(config)]
    assert found == pytest.approx([rate(step) for step in range(total)], rel=1e-9)


def test_the_projector_has_a_rate_of_its_own(workshop: Workshop, tmp_path: Path):
    """A rate of next to nothing leaves it where it was, while the language model learns."""
    config = workshop.recipe(tmp_path / "out", optimizer__projector_learning_rate=1e-30)
    run(config)
    changed = changed_tensors(workshop.base, config.output.folder)
    assert changed
    assert not any("multi_modal_projector" in name for name in changed)
