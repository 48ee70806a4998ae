"""Weights as differences from a base: how LLaVA-Med v1.0 was published.

Rules (LLaVA-Med v1.0.0, commit b9a98a7, llava/model/{apply,make}_delta.py), all in float16:

- same shape: target = base + delta;
- the projector, which the base lacks, is absolute in the delta;
- embedding and output layer may have more rows than the base: the rows of the base are added to,
  the rest is absolute.

Rounding to float16 makes `apply` after `make` close to the target, not equal to it. What does *not*
live here: files (`tensor_source.py`, `output_folder.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.model_files import CopiedFiles, read_copied_files
from modeling.checkpoints.output_folder import (
    Destination,
    Recipe,
    read_manifest,
    write_folder,
    write_manifest,
)
from modeling.checkpoints.tensor_hash import TensorHash, checkpoint_hash, hash_tensor
from modeling.checkpoints.tensor_source import ROTARY_BUFFER, StoredTensor, TensorSource, numel
from modeling.checkpoints.tensor_writer import Output

PROJECTOR_PREFIX = "model.mm_projector."
_MAY_GROW = frozenset({"model.embed_tokens.weight", "lm_head.weight"})
# RMS norms of LLaMA are around 0.1 to 2; the differences of a fine-tuning are below 0.02.
_LEAST_NORM = 0.06
_REMEDY = (
    "float16 is the type of all deltas, so the two are not of one model, or one of them is "
    "damaged: give the base that the other was made from, or copy both again"
)
_RECOMPUTED = (ROTARY_BUFFER, "embeddings.position_ids")
_Told = Callable[[int, str], None]


def _nobody(num_bytes: int, name: str) -> None:
    """Tell nobody."""


def apply_delta(base: TensorSource, delta: TensorSource, to: Destination) -> None:
    """Write base + delta to `to.out`, with the delta's tokenizer and configuration.

    Raises:
        CheckpointError: they do not fit together, or `to.out` cannot be written.
    """
    outputs = list(merged_outputs(base, delta))
    recipe = Recipe("apply-delta", {}, {"base": base, "delta": delta}, _REMEDY)
    files = read_copied_files(delta.path)
    hashes = _source_hashes(recipe, to)
    refuse_other_base(delta, hashes["base"])
    _write(to, recipe, outputs, files, hashes)


def make_delta(base: TensorSource, target: TensorSource, to: Destination) -> None:
    """Write target - base to `to.out`, with the target's tokenizer and configuration.

    Raises:
        CheckpointError: they do not fit together, or `to.out` cannot be written.
    """
    outputs = list(delta_outputs(base, target))
    recipe = Recipe("make-delta", {}, {"base": base, "target": target}, _REMEDY)
    files = read_copied_files(target.path)
    hashes = _source_hashes(recipe, to)
    _write(to, recipe, outputs, files, hashes)


def merged_outputs(base: TensorSource, delta: TensorSource) -> Iterator[Output]:
    """Yield the tensors of base + delta.

    Raises:
        CheckpointError: `delta` is no delta, or a tensor is missing, is extra, or has a shape that
            the rules do not allow.
    """
    if any(n.startswith(PROJECTOR_PREFIX) for n in base.tensors.keys() - delta.tensors.keys()):
        raise CheckpointError(
            f"the base {base.path} has a projector, the delta {delta.path} has none: exchange "
            "--base and --delta"
        )
    if not is_delta(delta):
        raise CheckpointError(
            f"{delta.path} is a whole model, no delta: convert it with `galen convert v1`, without "
            "a base"
        )
    yield from _outputs(base, delta, 1)


def delta_outputs(base: TensorSource, target: TensorSource) -> Iterator[Output]:
    """Yield the tensors of target - base; raises as `merged_outputs` does."""
    yield from _outputs(base, target, -1)


def is_delta(source: TensorSource) -> bool:
    """Whether these are differences: its manifest says so, or its numbers do."""
    manifest = read_manifest(source.path)
    if manifest is not None:
        return manifest["command"] == "make-delta"
    zeros = [name for name in source.tensors if name.endswith(_RECOMPUTED)]
    if zeros and not bool(source.read(zeros[0]).any()):
        return True
    return float(source.read("model.norm.weight").float().abs().mean()) < _LEAST_NORM


def expected_base(delta: TensorSource) -> str | None:
    """Return the hash of the base that a delta's manifest names; None where it has none."""
    manifest = read_manifest(delta.path)
    if manifest is None or manifest["command"] != "make-delta":
        return None
    return manifest["sources"]["base"]["hash"]


def refuse_other_base(delta: TensorSource, found: str) -> None:
    """Raise CheckpointError where a delta was made from a base with another hash."""
    expected = expected_base(delta)
    if expected is not None and expected != found:
        raise CheckpointError(
            f"this is not the base that {delta.path} was made from: its hash is {found}, the "
            f"delta's manifest names {expected}; give that one with --base (`galen inspect --hash "
            "DIR` prints it as 'hash as a base')"
        )


def bytes_to_check(base: TensorSource, other: TensorSource) -> int:
    """Return how many bytes are read for hashes: the base's as float16."""
    ours = sum(numel(tensor.shape) * 2 for tensor in used_tensors(base).values())
    return ours + sum(tensor.num_bytes for tensor in used_tensors(other).values())


def base_hash(base: TensorSource, told: _Told = _nobody) -> str:
    """Return the hash of the float16 numbers that the rules add.

    Args:
        told: bytes and name of each tensor that was read.
    """
    hashes: dict[str, TensorHash] = {}
    for name, tensor in used_tensors(base).items():
        hashes[name] = hash_tensor(base.read(name).to(torch.float16))
        told(numel(tensor.shape) * 2, name)
    return checkpoint_hash(hashes)


def stored_hash(source: TensorSource, told: _Told = _nobody) -> str:
    """Return the hash of a directory's numbers as they are stored, by which manifests name it."""
    hashes: dict[str, TensorHash] = {}
    for name, tensor in used_tensors(source).items():
        hashes[name] = hash_tensor(source.read(name))
        told(tensor.num_bytes, name)
    return checkpoint_hash(hashes)


def used_tensors(source: TensorSource) -> dict[str, StoredTensor]:
    """Return what is not recomputed at loading, by name."""
    return {n: t for n, t in source.tensors.items() if not n.endswith(_RECOMPUTED)}


def _outputs(base: TensorSource, other: TensorSource, sign: int) -> Iterator[Output]:
    ours, theirs = used_tensors(base), used_tensors(other)
    if extra := sorted(ours.keys() - theirs.keys()):
        raise CheckpointError(
            f"{base.path} has the tensor {extra[0]!r} and {other.path} has not: they are of "
            "different models, or a file of the second is missing"
        )
    for name, tensor in theirs.items():
        if name not in ours:
            _refuse_unknown(name, base, other)
        elif ours[name].shape != tensor.shape:
            _refuse_shapes(name, ours[name], tensor)
        yield Output(name, "F16", tensor.shape, partial(_make, name, base, other, sign))


def _make(name: str, base: TensorSource, other: TensorSource, sign: int) -> torch.Tensor:
    """Return other + sign x base, in one new tensor."""
    result = other.read(name).to(torch.float16, copy=True)
    if name in base.tensors:
        known = base.read(name).to(torch.float16)
        block = result[tuple(slice(0, size) for size in known.shape)]
        block.add_(known, alpha=sign)
    return result


def _refuse_unknown(name: str, base: TensorSource, other: TensorSource) -> None:
    if not name.startswith(PROJECTOR_PREFIX):
        raise CheckpointError(
            f"{other.path} has the tensor {name!r} and the base {base.path} has not: only the "
            f"projector ({PROJECTOR_PREFIX}*) may be new; LLaVA-Med v1.0's base is LLaMA-1 7B in "
            "Hugging Face layout"
        )


def _refuse_shapes(name: str, base: StoredTensor, other: StoredTensor) -> None:
    fits = len(base.shape) == len(other.shape) and all(
        ours <= theirs for ours, theirs in zip(base.shape, other.shape, strict=True)
    )
    if name not in _MAY_GROW or not fits:
        raise CheckpointError(
            f"{name!r} is {list(base.shape)} in the base and {list(other.shape)} in {other.file}: "
            "only embedding and output layer may have more rows; give the base that the delta was "
            "made from"
        )


def _source_hashes(recipe: Recipe, to: Destination) -> dict[str, str]:
    told = to.progress.advance
    return {
        role: base_hash(source, told) if role == "base" else stored_hash(source, told)
        for role, source in recipe.sources.items()
    }


def _write(
    to: Destination,
    recipe: Recipe,
    outputs: list[Output],
    files: CopiedFiles,
    source_hashes: Mapping[str, str],
) -> None:
    def write_rest(folder: Path, hashes: dict[str, TensorHash]) -> None:
        more: dict[str, Any] = {"source_config": files.config}
        files.write(folder)
        write_manifest(folder, recipe, source_hashes, hashes, more)

    write_folder(to, recipe, outputs, write_rest)
