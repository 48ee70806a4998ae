"""Looking for NaN and infinity in safetensors files: by their bits, without torch, in small pieces.

A number is not finite where all bits of its exponent are set (IEEE 754; bfloat16 is the upper half
of a float32). float8 E4M3 has no infinity and a single NaN (arXiv:2209.05433, section 3).
"""

from collections.abc import Mapping

import numpy as np

from modeling.checkpoint_files import CheckpointError, CheckpointFiles, TensorInfo

_PIECE_BYTES = 16 << 20
# Unsigned type of the same width, and the bits that are all set.
_NOT_FINITE: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def refuse_non_finite(files: CheckpointFiles) -> None:
    """Read all weights once; about 1 s per GiB that is in the page cache.

    Raises:
        CheckpointError: names the first weight that holds NaN or infinity.
    """
    for name, info in sorted(files.tensors.items(), key=lambda item: item[1].start):
        if info.dtype in _NOT_FINITE and not _is_finite(info):
            raise CheckpointError(
                f"{info.file}: the weight {name!r} holds NaN or infinity: the checkpoint is "
                "damaged; copy or convert it again"
            )


def _is_finite(info: TensorInfo) -> bool:
    kind, mask_bits = _NOT_FINITE[info.dtype]
    mask = np.dtype(kind).type(mask_bits)
    left = info.num_bytes
    with info.file.open("rb") as stream:
        stream.seek(info.start)
        while left:
            piece = np.frombuffer(bytearray(stream.read(min(left, _PIECE_BYTES))), dtype=kind)
            if not piece.size:
                raise CheckpointError(f"{info.file} was cut short while it was read")
            left -= piece.nbytes
            np.bitwise_and(piece, mask, out=piece)
            if piece.max() == mask:
                return False
    return True
