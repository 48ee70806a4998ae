"""Looking for NaN and infinity in safetensors files: by their bits, without torch, in small pieces.

A number is not finite where all bits of its exponent are set (IEEE 754; bfloat16 is the upper half
of a float32). float8 E4M3 has no infinity and a single NaN (arXiv:2209.05433, section 3).
"""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from modeling.checkpoint_files import CheckpointError, CheckpointFiles, TensorInfo

MOST_WHOLE_BYTES = 1 << 30
"""A larger checkpoint is not read to its end before it is loaded."""
_PIECE_BYTES = 16 << 20
_BLOCK_BYTES = 16 << 10
# Unsigned type of the same width, and the bits that are all set.
_NOT_FINITE: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a weight: `start` counts from the weight's own beginning."""

    name: str
    info: TensorInfo
    start: int
    num_bytes: int


def refuse_non_finite(
    files: CheckpointFiles, *, most_whole_bytes: int = MOST_WHOLE_BYTES, budget_s: float = 0.5
) -> None:
    """Read all weights of a small checkpoint, and of a large one what the time allows.

    Whole, it takes about 1 s per GiB that is in the page cache.

    Args:
        most_whole_bytes: a larger checkpoint is read in the order of `pieces_by_spread`.
        budget_s: until so much time has passed; the last piece may end later.

    Raises:
        CheckpointError: names the first weight that was found to hold NaN or infinity.
    """
    is_whole = files.weight_bytes <= most_whole_bytes
    until = time.monotonic() + budget_s
    for piece in _pieces_in_order(files) if is_whole else pieces_by_spread(files):
        if not is_whole and time.monotonic() >= until:
            return
        if not _is_finite(piece):
            raise CheckpointError(
                f"{piece.info.file}: the weight {piece.name!r} holds NaN or infinity: the "
                "checkpoint is damaged; copy or convert it again"
            )


def pieces_by_spread(files: CheckpointFiles) -> Iterator[Piece]:
    """Return pieces that soon show a damaged file, and at last all of it.

    First a block of the beginning of every weight, then of the middles, then of the ends: a copy
    that was cut short, a conversion that overflowed or a training that diverged spoils more than
    single numbers. Weights come in a shuffled order, always the same, so that a small part of them
    is from everywhere.
    """
    weights = _weights(files)
    random.Random(0).shuffle(weights)  # noqa: S311 - an order, not a secret
    for part in (0, 1, 2):
        for name, info in weights:
            size = min(_BLOCK_BYTES, info.num_bytes)
            start = (info.num_bytes - size) * part // 2
            start -= start % np.dtype(_NOT_FINITE[info.dtype][0]).itemsize
            if start or part == 0:  # a small one is one block
                yield Piece(name, info, start, size)
    for name, info in weights:
        yield from _pieces_of(name, info)


def _pieces_in_order(files: CheckpointFiles) -> Iterator[Piece]:
    for name, info in sorted(_weights(files), key=lambda item: item[1].start):
        yield from _pieces_of(name, info)


def _pieces_of(name: str, info: TensorInfo) -> Iterator[Piece]:
    for start in range(0, info.num_bytes, _PIECE_BYTES):
        yield Piece(name, info, start, min(_PIECE_BYTES, info.num_bytes - start))


def _weights(files: CheckpointFiles) -> list[tuple[str, TensorInfo]]:
    return [
        (name, info)
        for name, info in files.tensors.items()
        if info.dtype in _NOT_FINITE and info.num_bytes
    ]


def _is_finite(piece: Piece) -> bool:
    kind, mask_bits = _NOT_FINITE[piece.info.dtype]
    mask = np.dtype(kind).type(mask_bits)
    with piece.info.file.open("rb") as stream:
        stream.seek(piece.info.start + piece.start)
        found = bytearray(stream.read(piece.num_bytes))
    if len(found) < piece.num_bytes:
        raise CheckpointError(f"{piece.info.file} was cut short while it was read")
    numbers = np.frombuffer(found, dtype=kind)
    np.bitwise_and(numbers, mask, out=numbers)
    return bool(numbers.max() != mask)
