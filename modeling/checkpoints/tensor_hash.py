"""One hash of a whole checkpoint that does not depend on how it is split into files.

SHA-256 over one line per tensor, in the order of their names: name, type, shape and the SHA-256 of
its bytes. The same tensors in pickled shards, in one safetensors file or in ten have the same hash.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from modeling.checkpoints.tensor_source import dtype_name

_PIECE_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class TensorHash:
    """What identifies a tensor.

    Args:
        dtype: safetensors' name.
        sha256: hex digest of its bytes, little-endian, row by row.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def hash_tensor(tensor: torch.Tensor) -> TensorHash:
    """Return the hash of one tensor."""
    digest = hashlib.sha256()
    for piece in pieces_of(tensor):
        digest.update(numbers_of(piece))
    return TensorHash(dtype_name(tensor.dtype), (*tensor.shape,), digest.hexdigest())


def pieces_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor's elements row by row, some megabytes at a time."""
    yield from tensor.contiguous().flatten().split(_PIECE_ELEMENTS)


def numbers_of(piece: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, not copied."""
    return piece.view(torch.uint8).numpy().data


def checkpoint_hash(tensors: Mapping[str, TensorHash]) -> str:
    """Return the hash of all tensors together, as hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {tensor.sha256}\n".encode())
    return digest.hexdigest()
