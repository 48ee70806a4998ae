"""`galen train merge-lora` gives what PEFT gives, and what was trained beside an adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from modeling.checkpoint_files import CheckpointError
from modeling.tiny import make_tiny_llava
from tests.training.small_runs import Workshop, run, tensors_of
from training.finished import ADAPTER_FOLDER, TRAINED_BESIDE_FILE
from training.merging import merge_lora

LAYERS = r"model\.language_model\..*\.(q_proj|v_proj|down_proj)"


def load(path: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)


def make_adapter(base: Path, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Save an adapter by PEFT; returns the weights that PEFT itself makes of base and adapter."""
    model = get_peft_model(
        load(base), LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, **settings)
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(str(folder))
    merged: Any = model.merge_and_unload()
    return merged.state_dict()


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}],
    ids=["plain", "rslora", "patterns"],
)
def test_merging_gives_what_peft_gives(
    workshop: Workshop, tmp_path: Path, settings: dict[str, Any]
):
    expected = make_adapter(workshop.base, tmp_path / "adapter", **settings)

    merge_lora(workshop.base, tmp_path / "adapter", tmp_path / "out")

    found, before = load(tmp_path / "out").state_dict(), load(workshop.base).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj", "down_proj"}


def test_a_run_s_own_adapter_and_projector_give_its_finished_checkpoint(
    workshop: Workshop, tmp_path: Path
):
    out = tmp_path / "out"
    run(
        workshop.recipe(
            out,
            train={"projector": True, "language_model": "lora", "new_tokens": ("<image>",)},
            optimizer__max_steps=2,
        )
    )

    merge_lora(workshop.base, out / ADAPTER_FOLDER, tmp_path / "merged")

    finished, merged = tensors_of(out), tensors_of(tmp_path / "merged")
    assert finished.keys() == merged.keys()
    for name, tensor in finished.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-7)


def test_what_does_not_fit_is_refused_in_one_line(workshop: Workshop, tmp_path: Path):
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    make_adapter(workshop.base, adapter)
    other = make_tiny_llava(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is an adapter of another base"):
        merge_lora(other, adapter, out)

    save_file(
        {"model.multi_modal_projector.linear_1.bias": torch.zeros(7)}, adapter / TRAINED_BESIDE_FILE
    )
    with pytest.raises(CheckpointError, match="of 7, the base has 32: it is of another base"):
        merge_lora(workshop.base, adapter, out)
    save_file({"new_rows": torch.zeros(1, 32)}, adapter / TRAINED_BESIDE_FILE)
    with pytest.raises(CheckpointError, match="does not say which rows"):
        merge_lora(workshop.base, adapter, out)
    assert not out.exists()


def test_dora_is_sent_to_peft(workshop: Workshop, tmp_path: Path):
    make_adapter(workshop.base, tmp_path / "adapter", use_dora=True)

    with pytest.raises(CheckpointError, match=r"uses DoRA .*; merge it with PEFT"):
        merge_lora(workshop.base, tmp_path / "adapter", tmp_path / "out")


def test_the_result_says_what_it_was_made_of(workshop: Workshop, tmp_path: Path):
    make_adapter(workshop.base, tmp_path / "adapter")
    merge_lora(workshop.base, tmp_path / "adapter", tmp_path / "out")

    facts = json.loads((tmp_path / "out" / "galen_training.json").read_text())["merged"]
    assert facts["base"]["name"] == workshop.base.name
    assert len(facts["adapter"]["sha256"]) == 64
    assert load_file(tmp_path / "out" / "model.safetensors")
