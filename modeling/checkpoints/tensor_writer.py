"""Writes safetensors shards tensor by tensor, and goes on where an earlier run was stopped.

One tensor is in memory at a time: a shard's header is known before its numbers, because shapes and
types are. A finished shard is noted in a journal with the hashes of its tensors. What does *not*
live here: the directory around the shards (`output_folder.py`) and what is written.

Format: 8 bytes little-endian length N, N bytes of JSON padded with spaces, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from modeling.checkpoint_files import DTYPE_BYTES, CheckpointError
from modeling.checkpoints.tensor_hash import TensorHash, numbers_of, pieces_of
from modeling.checkpoints.tensor_source import DTYPES, numel

INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""As transformers splits by default (`save_pretrained`, max_shard_size)."""
_HEADER_ALIGN = 8


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor to be written.

    Args:
        dtype: safetensors' name.
        make: returns it, in that type and shape; called once, when its turn has come.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Of its numbers."""
        return numel(self.shape) * DTYPE_BYTES[self.dtype]


class Progress(Protocol):
    """Is told what was done."""

    def advance(self, num_bytes: int, name: str) -> None:
        """Note that so many bytes more of a tensor stand on the disk."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """One file and what it will hold."""

    file: str
    outputs: tuple[Output, ...]

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        return sum(output.num_bytes for output in self.outputs)


def plan_shards(outputs: Sequence[Output], max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Shard]:
    """Return outputs in their order, in files of at most that size, or of one tensor."""
    groups: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if groups[-1] and size + output.num_bytes > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(output)
        size += output.num_bytes
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{i:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for i, group in enumerate(groups, start=1)
    ]


def write_shard(
    folder: Path, shard: Shard, progress: Progress, remedy: str
) -> dict[str, TensorHash]:
    """Write one file under its final name, all of it or nothing.

    Args:
        remedy: what to do about a number that does not fit; ends the error.

    Returns:
        The hash of each tensor in it.

    Raises:
        CheckpointError: a tensor would hold NaN or infinity.
        OSError: the disk is full, or gone.
    """
    unfinished = folder / f"{shard.file}.unfinished"
    try:
        with unfinished.open("wb") as stream:
            stream.write(_header(shard))
            hashes = {
                output.name: _write_tensor(stream, output, progress, remedy)
                for output in shard.outputs
            }
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.rename(folder / shard.file)
    finally:
        unfinished.unlink(missing_ok=True)
    return hashes


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write which file holds which tensor; nothing where there is one file."""
    if len(shards) == 1:
        return
    weight_map = {output.name: shard.file for shard in shards for output in shard.outputs}
    total = sum(shard.num_bytes for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_tensor(stream: BinaryIO, output: Output, progress: Progress, remedy: str) -> TensorHash:
    tensor = output.make()
    if (*tensor.shape,) != output.shape or tensor.dtype != DTYPES[output.dtype]:
        raise AssertionError(f"{output.name} was made otherwise than announced")
    digest = hashlib.sha256()
    for piece in pieces_of(tensor):
        _refuse_non_finite(output, piece, remedy)
        numbers = numbers_of(piece)
        stream.write(numbers)
        digest.update(numbers)
        progress.advance(len(numbers), output.name)
    return TensorHash(output.dtype, output.shape, digest.hexdigest())


def _header(shard: Shard) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for output in shard.outputs:
        header[output.name] = {
            "dtype": output.dtype,
            "shape": output.shape,
            "data_offsets": (at, at + output.num_bytes),
        }
        at += output.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGN)
    return len(text).to_bytes(8, "little") + text


def _refuse_non_finite(output: Output, piece: torch.Tensor, remedy: str) -> None:
    if piece.is_floating_point() and not bool(piece.isfinite().all()):
        raise CheckpointError(
            f"{output.name!r} would hold NaN or infinity as {output.dtype}: {remedy}"
        )
