"""A checkpoint is refused by its headers, before anything of it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modeling.checkpoint_files import CheckpointError, open_checkpoint, sampled_fingerprint
from modeling.sharding import sizes_that_divide, why_not_divisible
from modeling.tiny import make_tiny_llava


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def with_header(path: Path, change: Callable[[dict], object]) -> None:
    """Write the file again with a header that lies."""
    blob = weights(path)
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(
        len(encoded).to_bytes(8, "little") + encoded + blob[8 + length :]
    )


def with_name_twice(path: Path) -> None:
    """Write the file again with its first tensor described twice, in the same words."""
    blob = weights(path)
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    name = min(header.keys() - {"__metadata__"})
    again = json.dumps({name: header[name]})[:-1].encode()
    encoded = again + b"," + json.dumps(header).encode()[1:]
    (path / "model.safetensors").write_bytes(
        len(encoded).to_bytes(8, "little") + encoded + blob[8 + length :]
    )


def first(header: dict) -> dict:
    return next(entry for name, entry in sorted(header.items()) if name != "__metadata__")


def second(header: dict) -> dict:
    return [entry for name, entry in sorted(header.items()) if name != "__metadata__"][1]


def test_headers_say_what_the_weights_are(whole: Path) -> None:
    files = open_checkpoint(whole)
    assert files.weight_bytes < (whole / "model.safetensors").stat().st_size
    (projector,) = [i for n, i in files.tensors.items() if n.endswith("linear_1.weight")]
    assert (projector.dtype, projector.shape) == ("F32", (128, 64))
    assert files.config["model_type"] == "llava"


def cut_short(path: Path) -> None:
    (path / "model.safetensors").write_bytes(weights(path)[:-100])


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "is no directory"),
    "no config": (lambda p: (p / "config.json").unlink(), "has no config.json"),
    "config is no JSON": (lambda p: (p / "config.json").write_text("{"), "not readable JSON"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), "no JSON object"),
    "code": (lambda p: (p / "modeling.py").write_text(""), "is code"),
    "auto_map": (
        lambda p: (p / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}'),
        "has an auto_map",
    ),
    "pickle": (lambda p: (p / "pytorch_model.bin").write_bytes(b""), "may be a pickle"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no safetensors"),
    "cut short": (cut_short, "is damaged: it has"),
    "empty file": (lambda p: (p / "model.safetensors").write_bytes(b""), "header claims"),
    "huge header": (
        lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 7 + b"\0" + weights(p)[8:]),
        "header claims",
    ),
    "header no JSON": (
        lambda p: (p / "model.safetensors").write_bytes(b"\x04" + b"\0" * 7 + b"abcd"),
        "is no JSON",
    ),
    "shape lies": (
        lambda p: with_header(p, lambda h: first(h)["shape"].append(2)),
        "its shape needs",
    ),
    "negative place": (
        lambda p: with_header(p, lambda h: first(h).update(data_offsets=[-4, 0])),
        "impossible type, shape or place",
    ),
    "type of no kind": (
        lambda p: with_header(p, lambda h: first(h).update(dtype="F17")),
        "impossible type, shape or place",
    ),
    "overlap": (
        lambda p: with_header(
            p,
            lambda h: second(h).update(
                {k: first(h)[k] for k in ("dtype", "shape", "data_offsets")}
            ),
        ),
        "overlaps another tensor|leaves a gap",
    ),
    "gap": (
        lambda p: with_header(p, lambda h: h.pop(min(h.keys() - {"__metadata__"}))),
        "leaves a gap|its header describes",
    ),
    "type is a list": (
        lambda p: with_header(p, lambda h: first(h).update(dtype=[])),
        "has no type, shape and place",
    ),
    "entry is a number": (
        lambda p: with_header(p, lambda h: h.update(more=3)),
        "has no type, shape and place",
    ),
    "a name twice": (with_name_twice, "no JSON of names that differ"),
    "pickle under another name": (
        lambda p: (p / "model.safetensors").write_bytes(b"\x80\x04N." + bytes(40)),
        "header claims",
    ),
    "header nested without end": (
        lambda p: (p / "model.safetensors").write_bytes(
            (200_000).to_bytes(8, "little") + b"[" * 200_000
        ),
        "is no JSON",
    ),
    "config nested without end": (
        lambda p: (p / "config.json").write_text("[" * 200_000),
        "not readable JSON",
    ),
    "pointer of Git LFS": (
        lambda p: (p / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
        ),
        "git lfs pull",
    ),
    "link to nothing": (
        lambda p: (p / "model-2.safetensors").symlink_to(p / "nowhere"),
        "cannot be read",
    ),
    "shard missing": (
        lambda p: (p / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'
        ),
        "incomplete: model-00002-of-00002.safetensors is missing",
    ),
    "tensor missing": (
        lambda p: (p / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model.safetensors"}}'
        ),
        "incomplete: 'a' is in no file",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_told_in_one_line(case: str, copied: Path) -> None:
    damage, message = CASES[case]
    damage(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(copied)
    assert "\n" not in str(caught.value)


def test_a_wish_to_run_code_without_code_has_no_effect(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text()) | {"trust_remote_code": True}
    (copied / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(copied).tensors


def test_a_fingerprint_tells_weights_apart(whole: Path, copied: Path, tmp_path: Path) -> None:
    same = sampled_fingerprint(open_checkpoint(whole))
    assert sampled_fingerprint(open_checkpoint(copied)) == same
    other = make_tiny_llava(tmp_path / "other", seed=1)
    assert sampled_fingerprint(open_checkpoint(other)) != same


def test_sizes_that_divide_are_named(whole: Path) -> None:
    config = open_checkpoint(whole).config
    assert sizes_that_divide(config) == [1, 2]
    assert why_not_divisible(config, 2) is None
    problem = why_not_divisible(config, 4)
    assert problem is not None
    assert "2 key-value heads" in problem
    assert "take one of 1, 2" in problem


def test_sizes_that_a_configuration_leaves_out_count_too() -> None:
    # as in llava-hf/llava-1.5-7b-hf: the language model is Llama's defaults
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {"model_type": "clip_vision_model", "num_attention_heads": 16},
    }
    assert sizes_that_divide(config) == [1, 2, 4, 8]
    problem = why_not_divisible(config, 3)
    assert problem is not None
    assert "32 attention heads of the language model" in problem
    assert "--device-map auto" in problem
