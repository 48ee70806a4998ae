import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.conversions import convert_to_v1, convert_v1
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.output_folder import (
    MANIFEST,
    Destination,
    Recipe,
    refuse_existing,
    write_folder,
)
from modeling.checkpoints.tensor_hash import checkpoint_hash, hash_tensor
from modeling.checkpoints.tensor_source import open_tensors
from modeling.checkpoints.tensor_writer import Output
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import SHARD_BYTES, Converted, job

ROOT = Path(__file__).parents[2]
NUM_TENSORS, ROWS = 6, 1000


class Silent:
    def advance(self, num_bytes: int, name: str) -> None:
        pass


def outputs(calls: list[str] | None = None) -> list[Output]:
    def make(index: int) -> torch.Tensor:
        if calls is not None:
            calls.append(f"t{index}")
        return torch.full((ROWS, 10), float(index))

    return [Output(f"t{i}", "F32", (ROWS, 10), lambda i=i: make(i)) for i in range(NUM_TENSORS)]


def nothing_more(folder: Path, hashes: object) -> None:
    pass


def recipe(**options: object) -> Recipe:
    return Recipe("test", options, {})


def stop_before_the_end(out: Path) -> None:
    with pytest.raises(RuntimeError):
        write_folder(destination(out), recipe(), outputs(), _fails)


def assert_only_the_rest_is_done(out: Path) -> None:
    calls: list[str] = []
    write_folder(destination(out), recipe(), outputs(calls), nothing_more)
    assert calls == []
    assert not any("journal" in path.name for path in out.iterdir())


def destination(out: Path) -> Destination:
    return Destination(out, Silent(), 2 * ROWS * 10 * 4)  # two tensors per file


def test_shards_index_and_tensors_are_those_of_safetensors(tmp_path: Path):
    write_folder(destination(tmp_path / "out"), recipe(), outputs(), nothing_more)

    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [
        f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    for name, file in index["weight_map"].items():
        found = load_file(tmp_path / "out" / file)[name]
        assert torch.equal(found, torch.full((ROWS, 10), float(name[1:])))


def test_a_stopped_conversion_makes_only_what_is_left(tmp_path: Path):
    class StopsAtThird:
        def advance(self, num_bytes: int, name: str) -> None:
            if num_bytes and name == "t2":
                raise KeyboardInterrupt

    out = tmp_path / "out"
    first: list[str] = []
    to = Destination(out, StopsAtThird(), 2 * ROWS * 10 * 4)
    with pytest.raises(KeyboardInterrupt):
        write_folder(to, recipe(), outputs(first), nothing_more)
    assert not out.exists()

    second: list[str] = []
    write_folder(destination(out), recipe(), outputs(second), nothing_more)
    assert first == ["t0", "t1", "t2"]
    assert second == ["t2", "t3", "t4", "t5"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert not any("unfinished" in p.name or "journal" in p.name for p in out.iterdir())


def test_a_noted_shard_that_is_damaged_is_made_again(tmp_path: Path):
    out = tmp_path / "out"
    stop_before_the_end(out)
    shard = tmp_path / "out.partial/model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])

    calls: list[str] = []
    write_folder(destination(out), recipe(), outputs(calls), nothing_more)
    assert calls == ["t2", "t3"]


def test_the_rest_of_another_conversion_is_refused(tmp_path: Path):
    with pytest.raises(RuntimeError):
        write_folder(destination(tmp_path / "out"), recipe(dtype="F32"), outputs(), _fails)
    with pytest.raises(CheckpointError, match="other sources or options"):
        write_folder(destination(tmp_path / "out"), recipe(dtype="F16"), outputs(), nothing_more)


def test_a_source_that_changed_is_noticed(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    options = V1Options()
    before = Recipe("v1", {}, {"checkpoint": open_tensors(source)}).fingerprint
    file = min(source.glob("*.bin"))
    os.utime(file, ns=(1, 1))
    assert Recipe("v1", {}, {"checkpoint": open_tensors(source)}).fingerprint != before
    convert_v1(source, tower, options, job(tmp_path / "hf"))


def test_a_small_file_that_changed_is_noticed(v1: Converted, tmp_path: Path):
    """By its contents: a file may keep its size and its time."""
    source = originals.write_v1(tmp_path / "v1")
    (source / "original").mkdir()
    (source / "original" / "config.json").write_text("{}")

    def fingerprint() -> str:
        return Recipe("v1", {}, {"checkpoint": open_tensors(source)}).fingerprint

    for name in ("config.json", "tokenizer.model", "original/config.json"):
        before, file = fingerprint(), source / name
        times = file.stat()
        file.write_bytes(file.read_bytes()[::-1])
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert fingerprint() != before


def test_a_result_inside_its_source_may_go_on(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    out = source / "out"

    def once_more(write_rest: Callable[[Path, object], None]) -> None:
        sources = {"checkpoint": open_tensors(source)}
        write_folder(destination(out), Recipe("v1", {}, sources), outputs(), write_rest)

    with pytest.raises(RuntimeError):
        once_more(_fails)
    once_more(nothing_more)
    assert out.is_dir()


def test_another_split_into_files_is_another_conversion(tmp_path: Path):
    """Else files of the first split would stay in the result."""
    out = tmp_path / "out"
    stop_before_the_end(out)
    with pytest.raises(CheckpointError, match="--max-shard-size too"):
        write_folder(Destination(out, Silent()), recipe(), outputs(), nothing_more)
    assert not out.exists()


def test_what_nobody_planned_does_not_get_into_the_result(tmp_path: Path):
    out = tmp_path / "out"

    def stops(folder: Path, hashes: object) -> None:
        (folder / "original").mkdir()
        (folder / "original" / "left.json").write_text("{}")
        (folder / "model-00009-of-00009.safetensors").write_bytes(b"x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_folder(destination(out), recipe(), outputs(), stops)
    write_folder(destination(out), recipe(), outputs(), nothing_more)
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]


def test_a_noted_shard_of_another_type_is_made_again(tmp_path: Path):
    out = tmp_path / "out"
    stop_before_the_end(out)
    shard = tmp_path / "out.partial/model-00002-of-00003.safetensors"
    save_file({n: torch.ones(ROWS, 10, dtype=torch.float16) for n in ("t2", "t3")}, shard)

    calls: list[str] = []
    write_folder(destination(out), recipe(), outputs(calls), nothing_more)
    assert calls == ["t2", "t3"]


def test_a_name_that_could_not_be_given_is_given_by_the_same_command(tmp_path: Path):
    out = tmp_path / "out"

    def takes_the_name(folder: Path, hashes: object) -> None:
        out.mkdir()

    with pytest.raises(CheckpointError, match="is there already"):
        write_folder(destination(out), recipe(), outputs(), takes_the_name)
    out.rmdir()
    assert_only_the_rest_is_done(out)


def test_a_conversion_stopped_after_its_rename_ends_with_the_same_command(tmp_path: Path):
    out = tmp_path / "out"
    stop_before_the_end(out)
    (tmp_path / "out.partial").rename(out)

    with pytest.raises(CheckpointError, match="is there already"):
        write_folder(destination(out), recipe(dtype="F16"), outputs(), nothing_more)
    refuse_existing(out)
    assert_only_the_rest_is_done(out)
    with pytest.raises(CheckpointError, match="is there already"):
        refuse_existing(out)


def test_an_unfinished_file_does_not_stay(tmp_path: Path):
    def stops() -> torch.Tensor:
        raise KeyboardInterrupt

    planned = [Output("t0", "F32", (1,), stops)]
    with pytest.raises(KeyboardInterrupt):
        write_folder(destination(tmp_path / "out"), recipe(), planned, nothing_more)
    assert [p.name for p in (tmp_path / "out.partial").iterdir()] == ["galen_journal.json"]


def test_an_unfinished_file_of_a_killed_run_makes_room_before_room_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    stop_before_the_end(out)
    partial = tmp_path / "out.partial"
    shard = partial / "model-00002-of-00003.safetensors"
    shard.rename(f"{shard}.unfinished")
    seen: list[list[str]] = []

    def disk_usage(path: Path) -> object:
        seen.append([p.name for p in partial.glob("*.unfinished")])
        return SimpleNamespace(free=1 << 40)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    write_folder(destination(out), recipe(), outputs(), nothing_more)
    assert seen == [[]]


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(CheckpointError, match="is there already"):
        write_folder(destination(out), recipe(), outputs(), nothing_more)
    assert [p.name for p in out.iterdir()] == ["precious"]


def test_a_foreign_folder_with_the_partial_name_is_not_touched(tmp_path: Path):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "precious").write_text("x")
    with pytest.raises(CheckpointError, match="no conversion left it"):
        write_folder(destination(tmp_path / "out"), recipe(), outputs(), nothing_more)
    assert [p.name for p in partial.iterdir()] == ["precious"]


def test_two_conversions_into_one_folder_are_refused(tmp_path: Path):
    def second(folder: Path, hashes: object) -> None:
        with pytest.raises(CheckpointError, match="by another conversion"):
            write_folder(destination(tmp_path / "out"), recipe(), outputs(), nothing_more)

    write_folder(destination(tmp_path / "out"), recipe(), outputs(), second)


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path):
    huge = Output("t", "F32", (1 << 40, 1 << 10), lambda: torch.zeros(1))
    with pytest.raises(CheckpointError, match="GB free, out needs"):
        write_folder(destination(tmp_path / "out"), recipe(), [huge], nothing_more)


def test_a_disk_that_fills_up_leaves_nothing_and_the_same_command_goes_on(tmp_path: Path):
    """A limit on the size of files stands for a full disk: both are a write that fails half-way."""
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # the second tensor of a file
        with pytest.raises(CheckpointError, match=r"no room was left .* it goes on"):
            write_folder(destination(out), recipe(), outputs(), nothing_more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not out.exists()
    write_folder(destination(out), recipe(), outputs(), nothing_more)
    assert out.is_dir()


def test_a_conversion_killed_in_the_middle_goes_on_to_the_same_result(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from modeling.checkpoints import conversions, output_folder
        from modeling.checkpoints.llava_med_v1 import V1Options
        from tests.modeling.conftest import job
        from modeling.checkpoints.progress_bar import ProgressBar
        advance = ProgressBar.advance
        def dies(self, num_bytes, name):
            advance(self, num_bytes, name)
            if name == "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight":
                os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[1] == "dies":
            ProgressBar.advance = dies
        source, tower, out = map(Path, sys.argv[2:])
        conversions.convert_v1(source, tower, V1Options(), job(out))
        """
    )
    folders = [str(folder) for folder in (source, tower, tmp_path / "hf")]

    def run(how: str) -> int:
        command = [sys.executable, "-c", program, how, *folders]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    assert run("dies") == -signal.SIGKILL
    assert not (tmp_path / "hf").exists()
    assert list((tmp_path / "hf.partial").glob("*.safetensors"))
    assert run("lives") == 0

    convert_v1(source, tower, V1Options(), job(tmp_path / "whole"))
    one, other = (json.loads((tmp_path / n / MANIFEST).read_text()) for n in ("hf", "whole"))
    assert one == other
    assert content_hash(tmp_path / "hf") == one["result"]["hash"]


def test_the_manifest_hash_is_that_of_the_files(v1: Converted):
    manifest = json.loads((v1.hf / MANIFEST).read_text())
    assert content_hash(v1.hf) == manifest["result"]["hash"]
    assert manifest["tool"].startswith("galen")
    assert manifest["sources"].keys() == {"checkpoint", "vision_tower"}
    assert max(f.stat().st_size for f in v1.hf.glob("*.safetensors")) < SHARD_BYTES + 100_000


def test_a_converted_v1_goes_back_to_its_layout(v1: Converted, tmp_path: Path):
    convert_to_v1(v1.hf, job(tmp_path / "back"))

    original = open_tensors(v1.original)
    back = open_tensors(tmp_path / "back")
    kept = {n for n in original.tensors if not n.endswith("inv_freq")}
    assert back.tensors.keys() == kept
    assert all(torch.equal(back.read(name), original.read(name)) for name in kept)
    for name in ("tokenizer.model", "added_tokens.json", "special_tokens_map.json", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (v1.original / name).read_bytes()


def test_a_trained_second_layer_is_folded_into_one(v1: Converted, tmp_path: Path):
    """Without an activation two layers are one: their product."""
    changed = tmp_path / "trained"
    changed.mkdir()
    for file in v1.hf.iterdir():
        if file.suffix != ".safetensors" and file.name != "model.safetensors.index.json":
            target = changed / file.name
            target.symlink_to(file)
    tensors = {n: open_tensors(v1.hf).read(n).clone() for n in open_tensors(v1.hf).tensors}
    generator = torch.Generator().manual_seed(0)
    second = torch.randn(128, 128, generator=generator) / 11
    tensors["multi_modal_projector.linear_2.weight"] = second
    tensors["multi_modal_projector.linear_2.bias"] = torch.randn(128, generator=generator)
    save_file(tensors, changed / "model.safetensors")
    convert_to_v1(changed, job(tmp_path / "back"))

    back = open_tensors(tmp_path / "back")
    x = torch.randn(5, 64, generator=generator)
    weight, bias = (back.read(f"model.mm_projector.{part}") for part in ("weight", "bias"))
    first = x @ tensors["multi_modal_projector.linear_1.weight"].T
    first = first + tensors["multi_modal_projector.linear_1.bias"]
    expected = first @ second.T + tensors["multi_modal_projector.linear_2.bias"]
    assert torch.allclose(x @ weight.T + bias, expected, atol=1e-5)


def content_hash(folder: Path) -> str:
    source = open_tensors(folder)
    return checkpoint_hash({name: hash_tensor(source.read(name)) for name in source.tensors})


def _fails(folder: Path, hashes: object) -> None:
    raise RuntimeError
