"""What is wrong with a checkpoint is said in one line that names it; nothing is left behind."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeling.checkpoint_files import CheckpointError, open_checkpoint
from modeling.checkpoints.conversions import convert_to_v1, convert_v1, convert_v15
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.llava_med_v15 import V15Options
from modeling.checkpoints.tensor_source import PICKLE_INDEX, open_tensors
from tests.modeling import original_layouts as originals
from tests.modeling.conftest import Converted, job

Damage = Callable[[Path], object]


def edit_json(name: str, **changes: object) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return damage


def edit_tensors(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = {}
        for file in sorted(folder.glob("*.bin")):
            tensors |= torch.load(file, weights_only=True)
            file.unlink()
        (folder / PICKLE_INDEX).unlink()
        change(tensors)
        torch.save(tensors, folder / "pytorch_model.bin")

    return damage


def with_index_to(target: str) -> Damage:
    def damage(folder: Path) -> None:
        index = json.loads((folder / PICKLE_INDEX).read_text())
        index["weight_map"]["lm_head.weight"] = target
        (folder / PICKLE_INDEX).write_text(json.dumps(index))

    return damage


def shard(folder: Path) -> Path:
    return max(folder.glob("*.bin"))


def widened(tensors: dict) -> None:
    """Four bytes that claim to be a terabyte."""
    tensors["model.norm.weight"] = torch.zeros(1).expand(1 << 38)


class Runs:
    """A pickle that would run a command when it is read."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self._marker}",)


def without_numbers(folder: Path) -> None:
    tensors = torch.load(shard(folder), weights_only=True)
    torch.save({n: torch.zeros(3, device="meta") for n in tensors}, shard(folder))


def compressed(folder: Path) -> None:
    """The same records, but made small: a mapped one would be other numbers."""
    with zipfile.ZipFile(shard(folder)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(shard(folder), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in records.items():
            archive.writestr(name, blob)


def large_and_old(folder: Path) -> None:
    """Two files of 150 MB in the format that cannot be mapped; most of them are holes."""
    for file in folder.glob("*.bin"):
        tensors = torch.load(file, weights_only=True)
        torch.save(tensors, file, _use_new_zipfile_serialization=False)
        os.truncate(file, 150_000_000)


BAD_V1: dict[str, tuple[Damage, str]] = {
    "missing shard": (lambda f: shard(f).unlink(), "pytorch_model-00002-of-00002.bin is missing"),
    "index outside": (with_index_to("../../secret.bin"), "'../../secret.bin', which is outside"),
    "index absolute": (with_index_to("/etc/passwd"), "'/etc/passwd', which is outside"),
    "index of a dot": (with_index_to(".."), "'..', which is outside"),
    "index of no table": (edit_json(PICKLE_INDEX, weight_map=[1]), "has no weight_map"),
    "index lies": (
        edit_json(PICKLE_INDEX, weight_map={"x": "pytorch_model-00001-of-00002.bin"}),
        "'x' is not in pytorch_model-00001-of-00002.bin",
    ),
    "cut short": (
        lambda f: shard(f).write_bytes(shard(f).read_bytes()[:5000]), "is damaged or cut short",
    ),
    "empty": (lambda f: shard(f).write_bytes(b""), "is damaged or cut short"),
    "lfs pointer": (
        lambda f: shard(f).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "no table": (lambda f: torch.save([1, 2], shard(f)), "no table of names and tensors"),
    "not only tensors": (lambda f: torch.save({"a": 1}, shard(f)), "no table of names and tensors"),
    "no weights": (lambda f: [p.unlink() for p in f.glob("*.bin*")], "has no weights"),
    "huge view": (edit_tensors(widened), "claims more numbers than the file holds"),
    "missing tensor": (
        edit_tensors(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "'language_model.model.layers.1.mlp.up_proj.weight'",
    ),
    "missing head": (edit_tensors(lambda t: t.pop("lm_head.weight")), "'lm_head.weight'"),
    "extra tensor": (
        edit_tensors(lambda t: t.update({"model.extra.weight": torch.ones(2)})),
        "'model.extra.weight', which no LLaVA-Med v1.0 has",
    ),
    "extra layer": (
        edit_tensors(lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(2)})),
        "'model.layers.2.mlp.up_proj.weight', which its config.json does not describe",
    ),
    "other shape": (
        edit_tensors(lambda t: t.update({"model.norm.weight": torch.ones(129)})),
        "'model.norm.weight' is [129], config.json describes [128]",
    ),
    "other tower width": (
        edit_tensors(lambda t: t.update({"model.mm_projector.weight": torch.ones(128, 99)})),
        "'model.mm_projector.weight' is [128, 99]",
    ),
    "complex numbers": (
        edit_tensors(lambda t: t.update({"model.norm.weight": torch.ones(128) * 1j})),
        "of a type that is not known",
    ),
    "infinity": (
        edit_tensors(lambda t: t["lm_head.weight"][0].fill_(float("inf"))),
        "'language_model.lm_head.weight' would hold NaN or infinity",
    ),
    "a delta": (edit_tensors(lambda t: t["model.norm.weight"].mul_(0.001)), "is a delta"),
    "a published delta": (
        edit_tensors(lambda t: [v.zero_() for n, v in t.items() if n.endswith("inv_freq")]),
        "is a delta",
    ),
    "float8": (
        edit_tensors(
            lambda t: t.update({"model.norm.weight": torch.ones(128).to(torch.float8_e4m3fn)})
        ),
        "'model.norm.weight' is of a type that is not known to conversions: F8_E4M3",
    ),
    "no tensor": (edit_tensors(lambda t: t.clear()), "files of weights without a tensor"),
    "no numbers": (
        edit_tensors(lambda t: t.update({"model.norm.weight": torch.zeros(0, 128)})),
        "'model.norm.weight' has no numbers, its shape is [0, 128]",
    ),
    "sparse": (
        edit_tensors(lambda t: t.update({"model.norm.weight": torch.eye(3).to_sparse()})),
        "of a layout that is not known",
    ),
    "shapes only": (without_numbers, "was saved without its numbers (device 'meta')"),
    "compressed": (compressed, "is compressed ("),
    "large and old": (large_and_old, "256 MB are taken in a directory, not 300; load it and save"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config without a size": (edit_json("config.json", hidden_size=None), "has no hidden_size"),
    "config is no object": (lambda f: (f / "config.json").write_text("[1]"), "no JSON object"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "has no tokenizer"),
    "damaged tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b"abc"), "is damaged"),
    "other added tokens": (
        edit_json("added_tokens.json", **{"<im_end>": 32000}), "gives '<im_end>' the id 32000",
    ),
    "no added tokens": (lambda f: (f / "added_tokens.json").unlink(), "has no <im_patch>"),
    "more tokens than rows": (
        edit_tensors(
            lambda t: t.update(
                {n: t[n][:421] for n in ("model.embed_tokens.weight", "lm_head.weight")}
            )
        ),
        "the tokenizer has 424 tokens, the embedding 421 rows",
    ),
    "no special tokens": (
        lambda f: [(f / n).unlink() for n in ("special_tokens_map.json", "tokenizer_config.json")],
        "names no bos_token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_V1)
def test_a_bad_v1_is_refused_in_one_line(name: str, tmp_path: Path):
    damage, words = BAD_V1[name]
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    damage(source)

    with pytest.raises(CheckpointError) as failure:
        convert_v1(source, tower, V1Options(), job(tmp_path / "out"))
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_a_command_in_it_runs_nothing(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    marker = tmp_path / "was-run"
    for is_zip in (True, False):  # torch's two formats
        torch.save({"a": Runs(marker)}, shard(source), _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            convert_v1(source, tower, V1Options(), job(tmp_path / "out"))
    assert not marker.exists()


def test_a_pickled_tower_with_a_command_in_it_runs_nothing(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_biomedclip(tmp_path / "biomedclip")
    marker = tmp_path / "was-run"
    torch.save({"a": Runs(marker)}, tower / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        convert_v1(source, tower, V1Options(), job(tmp_path / "out"))
    assert not marker.exists()


def test_code_in_a_directory_is_neither_run_nor_copied(v1: Converted, tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1", auto_map={"AutoModel": "evil.Model"})
    (source / "evil.py").write_text("raise SystemExit('was run')")
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(source, tower, V1Options(), job(tmp_path / "out"))

    assert not list((tmp_path / "out").rglob("*.py"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "auto_map" not in config


def test_names_of_code_are_left_out_of_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Else no engine would load the result."""
    source = originals.write_v1(tmp_path / "v1", auto_map={"AutoModel": "evil.Model"})
    edit_json("tokenizer_config.json", more=[{"auto_map": ["evil.Tokenizer", None]}])(source)
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(source, tower, V1Options(), job(tmp_path / "out"))

    open_checkpoint(tmp_path / "out")
    assert json.loads((tmp_path / "out/original/tokenizer_config.json").read_text())["more"] == [{}]
    assert "tokenizer_config.json names code (auto_map), which was left out" in (
        capsys.readouterr().err
    )


def test_small_old_pickles_that_cannot_be_mapped_are_read(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    for file in source.glob("*.bin"):
        tensors = torch.load(file, weights_only=True)
        torch.save(tensors, file, _use_new_zipfile_serialization=False)
    found = open_tensors(source)
    assert torch.equal(found.read("lm_head.weight"), originals.v1_tensors()["lm_head.weight"])


def test_parameters_are_read_as_tensors(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tensors = torch.load(shard(source), weights_only=True)
    torch.save({n: torch.nn.Parameter(t) for n, t in tensors.items()}, shard(source))
    tower = originals.write_clip(tmp_path / "clip")
    convert_v1(source, tower, V1Options(), job(tmp_path / "out"))


def test_v15_given_to_v1_is_told_the_right_command(tmp_path: Path):
    source = originals.write_v15(tmp_path / "v15")
    with pytest.raises(CheckpointError, match="use `galen convert v15`"):
        convert_v1(source, None, V1Options(), job(tmp_path / "out"))


def test_v1_given_to_v15_is_told_the_right_command(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    with pytest.raises(CheckpointError, match="use `galen convert v1`"):
        convert_v15(source, None, V15Options("checkpoint"), job(tmp_path / "out"))


def test_a_converted_checkpoint_is_not_converted_again(v1: Converted, tmp_path: Path):
    words = "in Hugging Face layout already"
    with pytest.raises(CheckpointError, match=words):
        convert_v1(v1.hf, v1.tower, V1Options(), job(tmp_path / "out"))
    with pytest.raises(CheckpointError, match=words):
        convert_v15(v1.hf, None, V15Options("checkpoint"), job(tmp_path / "out"))


def test_a_base_model_is_no_llava(tmp_path: Path):
    base = originals.write_llama(tmp_path / "llama")
    tower = originals.write_clip(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="apply-delta` first"):
        convert_v1(base, tower, V1Options(), job(tmp_path / "out"))


def test_v1_without_a_tower_says_which_one_it_needs(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    with pytest.raises(CheckpointError, match="clip-vit-large-patch14"):
        convert_v1(source, None, V1Options(), job(tmp_path / "out"))


def test_a_tower_of_another_width_is_refused(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip", originals.Sizes(tower_hidden=128))
    with pytest.raises(CheckpointError, match=r"'model.mm_projector.weight' is \[128, 64\]"):
        convert_v1(source, tower, V1Options(), job(tmp_path / "out"))


def test_a_folder_without_a_tower_is_refused(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    with pytest.raises(CheckpointError, match="holds no CLIP vision tower"):
        convert_v1(source, source, V1Options(), job(tmp_path / "out"))


def test_a_tower_whose_config_is_anothers_is_refused(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    config = json.loads((tower / "config.json").read_text())
    config["vision_config"]["patch_size"] = 16
    (tower / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"patch_size 14, its config.json 16"):
        convert_v1(source, tower, V1Options(), job(tmp_path / "out"))


def test_a_number_too_large_for_float16_is_named(tmp_path: Path):
    tensors = originals.v1_tensors()
    tensors["model.layers.0.mlp.gate_proj.weight"][3, 3] = 1e5
    source = originals.write_v1(tmp_path / "v1", tensors=tensors)
    tower = originals.write_clip(tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"gate_proj.weight' .* as F16: .*--dtype bfloat16"):
        convert_v1(source, tower, V1Options(dtype="F16"), job(tmp_path / "out"))
    convert_v1(source, tower, V1Options(dtype="BF16"), job(tmp_path / "bf16"))


def test_a_bos_that_is_no_token_is_refused(tmp_path: Path):
    source = originals.write_v1(tmp_path / "v1")
    tower = originals.write_clip(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="--bos '<bos>' is no token"):
        convert_v1(source, tower, V1Options(bos_token="<bos>"), job(tmp_path / "out"))


def test_the_stock_tower_has_to_be_given(tmp_path: Path):
    source = originals.write_v15(tmp_path / "v15")
    with pytest.raises(CheckpointError, match="needs --tower DIR"):
        convert_v15(source, None, V15Options("stock"), job(tmp_path / "out"))


def test_a_checkpoint_without_a_tower_of_its_own_says_so(tmp_path: Path):
    tensors = {n: t for n, t in originals.v15_tensors().items() if "vision_tower" not in n}
    source = originals.write_v15(tmp_path / "v15", tensors=tensors)
    with pytest.raises(CheckpointError, match="take --vision-tower stock"):
        convert_v15(source, None, V15Options("checkpoint"), job(tmp_path / "out"))


def test_towers_of_different_shapes_are_not_compared(tmp_path: Path):
    source = originals.write_v15(tmp_path / "v15")
    tower = originals.write_clip(tmp_path / "clip", originals.Sizes(image_px=28))
    with pytest.raises(CheckpointError, match="needs openai/clip-vit-large-patch14-336"):
        convert_v15(source, tower, V15Options("stock"), job(tmp_path / "out"))


def test_v15_does_not_go_to_v1s_layout(v15: Converted, tmp_path: Path):
    with pytest.raises(CheckpointError, match="projector with an activation"):
        convert_to_v1(v15.hf, job(tmp_path / "out"))


def test_a_worker_says_how_an_original_checkpoint_is_converted(v1: Converted, v15: Converted):
    for original in (v1.original, v15.original):
        with pytest.raises(CheckpointError, match=r"`galen inspect .*` says"):
            open_checkpoint(original)


def test_an_index_of_safetensors_that_points_outside_is_refused(tmp_path: Path):
    source = originals.write_v15(tmp_path / "v15")
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = "../model.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="outside its directory"):
        convert_v15(source, None, V15Options("checkpoint"), job(tmp_path / "out"))


@pytest.mark.parametrize("target", ["../model.safetensors", "/etc/hostname", "..", ""])
def test_a_worker_refuses_an_index_that_points_outside(target: str, v1: Converted, tmp_path: Path):
    folder = tmp_path / "copy" / "hf"
    shutil.copytree(v1.hf, folder)
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][min(content["weight_map"])] = target
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="outside its directory"):
        open_checkpoint(folder)
