import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.conversions import apply_delta, convert_v1, make_delta
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.output_folder import MANIFEST
from modeling.checkpoints.tensor_hash import checkpoint_hash, hash_tensor
from modeling.checkpoints.tensor_source import open_tensors
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import job

HALF = torch.float16
ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return originals.write_llama(tmp_path / "llama")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return originals.write_v1(tmp_path / "target", dtype=HALF)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    for file in sorted(folder.glob("*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def test_a_delta_is_what_the_rules_say(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))

    mine, theirs, delta = stored(base), stored(target), stored(tmp_path / "delta")
    rows = originals.VOCAB
    embedding = "model.embed_tokens.weight"
    assert torch.equal(
        delta["model.norm.weight"], theirs["model.norm.weight"] - mine["model.norm.weight"]
    )
    assert torch.equal(delta[embedding][:rows], theirs[embedding][:rows] - mine[embedding])
    assert torch.equal(delta[embedding][rows:], theirs[embedding][rows:])  # absolute
    projector = "model.mm_projector.weight"
    assert torch.equal(delta[projector], theirs[projector])  # absolute
    assert not any("inv_freq" in name for name in delta)
    assert all(tensor.dtype == HALF for tensor in delta.values())


def test_applying_a_delta_gives_the_target_to_the_rounding_of_float16(
    base: Path, target: Path, tmp_path: Path
):
    make_delta(base, target, job(tmp_path / "delta"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))

    expected, mine, merged = stored(target), stored(base), stored(tmp_path / "merged")
    for name, tensor in merged.items():
        scale = mine[name].abs().max() if name in mine else torch.tensor(0.0)
        error = (tensor.float() - expected[name].float()).abs().max()
        assert error <= 2e-3 * max(scale, expected[name].abs().max()), name


def test_a_merged_checkpoint_brings_tokenizer_and_config_and_converts(
    base: Path, target: Path, tmp_path: Path
):
    make_delta(base, target, job(tmp_path / "delta"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(tmp_path / "merged", tower, V1Options(), job(tmp_path / "hf"))

    assert (tmp_path / "hf" / "tokenizer.json").is_file()
    assert manifest(tmp_path / "hf")["sources"]["checkpoint"]["name"] == "merged"


def test_sums_are_those_of_torch_in_float16(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))

    name = "model.layers.1.mlp.up_proj.weight"
    expected = stored(base)[name] + stored(tmp_path / "delta")[name]
    assert torch.equal(stored(tmp_path / "merged")[name], expected)


def test_the_hash_does_not_depend_on_files_or_formats(target: Path, tmp_path: Path):
    tensors = {n: t.contiguous() for n, t in stored(target).items()}
    one = tmp_path / "one"
    one.mkdir()
    save_file(tensors, one / "model.safetensors")
    sources = [open_tensors(target), open_tensors(one)]
    hashes = [
        checkpoint_hash({n: hash_tensor(source.read(n)) for n in source.tensors})
        for source in sources
    ]
    assert hashes[0] == hashes[1]


def test_one_changed_number_changes_the_hash(target: Path):
    tensors = stored(target)
    before = checkpoint_hash({n: hash_tensor(t) for n, t in tensors.items()})
    tensors["model.norm.weight"][3] += 0.01
    assert checkpoint_hash({n: hash_tensor(t) for n, t in tensors.items()}) != before


def test_another_base_is_refused_with_both_hashes(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    other = originals.write_llama(tmp_path / "other")
    shard = min(other.glob("*.bin"))
    tensors = torch.load(shard, weights_only=True)
    tensors["model.embed_tokens.weight"][0, 0] += 0.5
    torch.save(tensors, shard)

    with pytest.raises(CheckpointError, match="not the base") as failure:
        apply_delta(other, tmp_path / "delta", job(tmp_path / "merged"))
    expected = manifest(tmp_path / "delta")["sources"]["base"]["hash"]
    assert expected in str(failure.value)
    assert len(set(re.findall("[0-9a-f]{64}", str(failure.value)))) == 2
    assert not (tmp_path / "merged").exists()


def test_the_same_base_in_another_type_and_split_is_known(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    other = tmp_path / "other"
    other.mkdir()
    tensors = {n: t.float().contiguous() for n, t in stored(base).items() if "inv_freq" not in n}
    save_file(tensors, other / "model.safetensors")
    shutil.copy(base / "config.json", other)

    apply_delta(other, tmp_path / "delta", job(tmp_path / "merged"))


def test_a_delta_without_a_manifest_warns(
    base: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_delta(base, target, job(tmp_path / "delta"))
    capsys.readouterr()
    apply_delta(base, tmp_path / "delta", job(tmp_path / "known"))
    assert "unverified base" not in capsys.readouterr().err

    (tmp_path / "delta" / MANIFEST).unlink()
    apply_delta(base, tmp_path / "delta", job(tmp_path / "unknown"))
    assert "unverified base" in capsys.readouterr().err
    assert manifest(tmp_path / "unknown")["sources"]["base"]["hash"]


def test_a_dry_run_says_whether_the_base_was_checked(
    base: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_delta(base, target, job(tmp_path / "delta"))
    expected = manifest(tmp_path / "delta")["sources"]["base"]["hash"]
    dry = replace(job(tmp_path / "merged"), is_dry_run=True)
    capsys.readouterr()
    apply_delta(base, tmp_path / "delta", dry)
    assert f"base: not checked now; the delta was made from the one with hash {expected}" in (
        capsys.readouterr().out
    )
    (tmp_path / "delta" / MANIFEST).unlink()
    apply_delta(base, tmp_path / "delta", dry)
    assert "base: cannot be checked" in capsys.readouterr().out


def test_a_manifest_names_base_delta_and_every_tensor(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))

    found = manifest(tmp_path / "merged")
    assert found["command"] == "apply-delta"
    assert (
        found["sources"]["base"]["hash"] == manifest(tmp_path / "delta")["sources"]["base"]["hash"]
    )
    assert found["sources"]["delta"]["hash"] == manifest(tmp_path / "delta")["result"]["hash"]
    assert found["result"]["tensors"].keys() == stored(tmp_path / "merged").keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("extra", "only the projector"),
        ("missing", "'lm_head.weight'"),
        ("shape", "'model.norm.weight' is [128]"),
        ("narrower", "'model.embed_tokens.weight' is [420, 128]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: str, words: str, base: Path, tmp_path: Path):
    tensors = delta_tensors()
    match change:
        case "extra":
            tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
        case "missing":
            del tensors["lm_head.weight"]
        case "shape":
            tensors["model.norm.weight"] = torch.zeros(129)
        case _:
            tensors["model.embed_tokens.weight"] = torch.zeros(424, 32)
    delta = originals.write_v1(tmp_path / "delta", tensors=tensors, dtype=HALF)

    with pytest.raises(CheckpointError) as failure:
        apply_delta(base, delta, job(tmp_path / "out"))
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists()


def delta_tensors() -> dict[str, torch.Tensor]:
    """As those of a fine-tuning: norms have hardly moved."""
    tensors = originals.v1_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 0.001
    return tensors


def test_a_whole_model_is_no_delta(base: Path, target: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="is a whole model, no delta"):
        apply_delta(base, target, job(tmp_path / "out"))


def test_a_delta_of_ours_is_known_by_its_manifest(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    tower = originals.write_clip(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="is a delta, not a model"):
        convert_v1(tmp_path / "delta", tower, V1Options(), job(tmp_path / "out"))
    apply_delta(base, tmp_path / "delta", job(tmp_path / "merged"))
    with pytest.raises(CheckpointError, match="is a whole model, no delta"):
        apply_delta(base, tmp_path / "merged", job(tmp_path / "out"))


def test_exchanged_arguments_are_noticed(base: Path, target: Path, tmp_path: Path):
    make_delta(base, target, job(tmp_path / "delta"))
    with pytest.raises(CheckpointError, match="exchange --base and --delta"):
        apply_delta(tmp_path / "delta", base, job(tmp_path / "out"))


def test_a_sum_beyond_float16_is_refused(base: Path, tmp_path: Path):
    name = "model.layers.1.input_layernorm.weight"
    tensors = delta_tensors() | {name: torch.full((128,), 6e4)}
    delta = originals.write_v1(tmp_path / "delta", tensors=tensors, dtype=HALF)
    shard = max(base.glob("*.bin"))
    large = torch.load(shard, weights_only=True)
    large[name] = torch.full((128,), 6e4, dtype=HALF)
    torch.save(large, shard)

    with pytest.raises(CheckpointError, match="would hold NaN or infinity") as failure:
        apply_delta(base, delta, job(tmp_path / "out"))
    assert f"'{name}'" in str(failure.value)
    assert "--dtype" not in str(failure.value)  # deltas have no such option
    assert "give the base that the other was made from" in str(failure.value)
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_model(tmp_path: Path):
    """Peak anonymous memory: below 2 x the largest tensor + 512 MB, less than the model's size."""
    code = (ROOT / "tests/modeling/measure_apply_delta.py").as_posix()
    result = subprocess.run(
        [sys.executable, code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["model_bytes"] > found["bound_bytes"]
    assert found["peak_anonymous_bytes"] < found["bound_bytes"]
