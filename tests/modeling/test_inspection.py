import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.conversions import make_delta
from modeling.checkpoints.inspection import inspect_folder
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import Converted, job


def test_v1_is_known_with_what_is_wrong_in_it(v1: Converted):
    report = inspect_folder(v1.original)
    assert report.kind.startswith("LLaVA-Med v1.0")
    assert report.facts["projector"] == "one linear layer"
    assert "bos '</s>' (2)" in report.facts["tokens"]
    assert "config.json's eos_token_id is 1, the tokenizer's 2" in report.problems
    assert report.advice[0].startswith("galen convert v1 ")


def test_a_delta_is_known(v1: Converted, tmp_path: Path):
    base = originals.write_llama(tmp_path / "llama")
    make_delta(base, v1.original, job(tmp_path / "delta"))
    # a real fine-tuning moves norms by little; here they are set as it would
    delta = originals.v1_tensors()
    delta["model.norm.weight"] = delta["model.norm.weight"] * 0.001
    folder = originals.write_v1(tmp_path / "published", tensors=delta)
    report = inspect_folder(folder)
    assert "a delta" in report.kind
    assert "apply-delta" in report.advice[0]


def test_v15_is_known(v15: Converted):
    report = inspect_folder(v15.original)
    assert report.kind.startswith("LLaVA-Med v1.5")
    assert "one of its own, 56 px" in report.facts["vision tower"]
    assert report.facts["images"] == "pad"
    assert "--vision-tower checkpoint" in report.advice[0]


def test_towers_and_bases_are_known(v1: Converted, v1_biomedclip: Converted, tmp_path: Path):
    assert v1.tower is not None
    assert v1_biomedclip.tower is not None
    assert inspect_folder(v1.tower).kind.startswith("CLIP")
    assert inspect_folder(v1_biomedclip.tower).kind.startswith("BiomedCLIP")
    base = originals.write_llama(tmp_path / "llama")
    assert inspect_folder(base).kind == "a language model without images (llama)"


def test_a_converted_v1_has_no_problem(v1: Converted):
    report = inspect_folder(v1.hf)
    assert "converted from original by galen" in report.kind
    assert not report.problems
    assert report.facts["answers end at"] == "'###'"
    assert report.facts["conversation template"] == "v0"
    assert any("hf-overrides" in note for note in report.notes)


def test_a_tower_that_vllm_does_not_know_is_noted(v1_biomedclip: Converted):
    report = inspect_folder(v1_biomedclip.hf)
    assert not report.problems
    assert any("--engine transformers" in note for note in report.notes)


def test_padding_is_noted(v15: Converted):
    report = inspect_folder(v15.hf)
    assert not report.problems
    assert any("'pad'" in note for note in report.notes)


def test_the_hash_is_checked_against_the_manifest(v1: Converted, tmp_path: Path):
    assert "as its manifest says" in inspect_folder(v1.hf, is_hashed=True).facts["hash"]
    changed = copy(v1.hf, tmp_path / "changed")
    shard = max(changed.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert "changed" in inspect_folder(changed, is_hashed=True).facts["hash"]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("generation_config.json", {"eos_token_id": 7, "stop_strings": None}, "would not end"),
        ("config.json", {"image_token_index": 5}, "image_token_index is 5"),
        ("chat_template.jinja", None, "no chat template"),
        ("processor_config.json", None, "no image processor"),
        ("tokenizer.json", None, "no fast tokenizer"),
    ],
)
def test_what_would_be_wrong_when_served_is_said(
    file: str, change: dict | None, words: str, v1: Converted, tmp_path: Path
):
    folder = copy(v1.hf, tmp_path / "copy")
    if change is None:
        (folder / file).unlink()
    else:
        content = json.loads((folder / file).read_text()) | change
        content = {name: value for name, value in content.items() if value is not None}
        (folder / file).write_text(json.dumps(content))
    assert any(words in problem for problem in inspect_folder(folder).problems)


def test_types_that_are_not_read_are_described(tmp_path: Path):
    tensors = {n: t.to(torch.float8_e4m3fn) for n, t in originals.v1_tensors().items()}
    pickled = originals.write_v1(tmp_path / "pickled", tensors=tensors, dtype=torch.float8_e4m3fn)
    flat = tmp_path / "flat"
    flat.mkdir()
    save_file(tensors, flat / "model.safetensors")
    for folder in (pickled, flat):
        report = inspect_folder(folder)
        assert report.kind.startswith("LLaVA-Med v1.0 (or LLaVA v0), original layout")
        assert report.facts["types"] == "F8_E4M3 100 %"
        with pytest.raises(CheckpointError, match="not known to conversions: F8_E4M3"):
            inspect_folder(folder, is_hashed=True)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="has no weights"):
        inspect_folder(tmp_path)


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return target
