import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.conversions import make_delta
from modeling.checkpoints.inspection import inspect_folder
from modeling.checkpoints.output_folder import MANIFEST
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


@pytest.mark.parametrize(
    "change",
    [
        {"tool": None},
        {"tool": "galen\n\x1b[31m"},
        {"command": 3},
        {"template": ["v0"]},
        {"sources": []},
        {"sources": {"base": {"name": "x", "hash": "short"}}},
        {"sources": {}, "command": "make-delta"},
        {"result": {}},
        {"result": "x"},
        {"format": "galen-conversion/9"},
    ],
)
def test_a_manifest_of_a_stranger_is_checked(change: dict, v1: Converted, tmp_path: Path):
    folder = copy(v1.hf, tmp_path / "copy")
    content = json.loads((folder / MANIFEST).read_text()) | change
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="from its publisher again, or remove it") as failure:
        inspect_folder(folder)
    assert "\n" not in str(failure.value)


def test_the_hashes_of_a_refused_base_are_found(v1: Converted, tmp_path: Path):
    """By the rules of manifests: without what loaders make themselves, in float16 for deltas."""
    base = originals.write_llama(tmp_path / "llama", dtype=torch.float32)
    make_delta(base, v1.original, job(tmp_path / "delta"))
    sources = json.loads((tmp_path / "delta" / MANIFEST).read_text())["sources"]

    facts = inspect_folder(base, is_hashed=True).facts
    assert facts["hash as a base"].startswith(sources["base"]["hash"])
    assert not facts["hash"].startswith(sources["base"]["hash"])  # float32
    target = inspect_folder(v1.original, is_hashed=True).facts
    assert target["hash"] == sources["target"]["hash"]
    assert "hash as a base" not in target


def test_images_that_cannot_be_prepared_are_a_problem(v1: Converted, tmp_path: Path):
    folder = copy(v1.hf, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_aspect_ratio": "anyres"}))
    assert any("'anyres'" in problem for problem in inspect_folder(folder).problems)


def run(*words: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_the_system_refuses_is_one_line(tmp_path: Path):
    inspect = "modeling.checkpoints.inspect_command"
    done = run(inspect, tmp_path / ("x" * 300))
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "file").write_text("x")
    done = run(inspect, tmp_path / "file")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"vision_config": [1]}),
        ("config.json", {"vision_config": {"model_type": [1]}}),
        ("config.json", {"dtype": [1]}),
        ("config.json", {"text_config": "x"}),
        ("config.json", {"image_aspect_ratio": ["pad"]}),
        ("config.json", {"projector_hidden_act": ["linear"]}),
        ("generation_config.json", {"stop_strings": 3}),
    ],
)
def test_entries_of_a_wrong_kind_are_no_trace(
    file: str, change: dict, v1: Converted, tmp_path: Path
):
    folder = copy(v1.hf, tmp_path / "copy")
    content = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(content))
    inspect_folder(folder)


HEADERS: dict[str, tuple[dict, str]] = {
    "no tensor": ({}, "files of weights without a tensor"),
    "no numbers": (
        {"a": {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]}},
        f"'a' has no numbers, its shape is [0, {2**70}]",
    ),
    "metadata of numbers": (
        {
            "__metadata__": {"format": 1},
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        "is damaged (",
    ),
    "unread type": (
        {"a": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]}},
        "'a' is of a type that is not known to conversions: U16",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_strange_header_is_one_line(name: str, tmp_path: Path):
    header, words = HEADERS[name]
    blob = json.dumps(header).encode()
    size = max((e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"), default=0)
    content = len(blob).to_bytes(8, "little") + blob + bytes(size)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as failure:
        inspect_folder(tmp_path, is_hashed=True)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


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
