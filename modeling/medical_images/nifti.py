"""One slice of a NIfTI volume, upright, in the values that its header scales to.

The header is checked before anything else is inflated or read. What does *not* live here: how
values become 8 bits (`grey.py`).
"""

import io
import zlib
from dataclasses import dataclass
from typing import Any, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from modeling.medical_images.choice import Choice, Plane
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.signatures import is_gzip, is_nifti, is_nifti_1

MAX_INFLATED_BYTES = 256 * 2**20
"""A CT of 512 x 512 x 500 in 16 bits; the whole volume is held while a slice is taken."""
MAX_SIDE = 4096
_HEAD_BYTES = 352
_PIECE_BYTES = 16 << 10
"""Of the packed file; deflate makes 16 MiB of it at most."""

_AXES: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
_KINDS = "iuf"


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice with what may be told of it.

    Args:
        values: rows from the top: anterior (axial) or superior; columns as radiologists look, the
            patient's right at the left.
    """

    values: NDArray[np.float64]
    slice: int
    slices: int
    volume: int
    volumes: int
    bits: int


def read_slice(file: bytes, choice: Choice, max_pixels: int) -> Slice:
    """Return the chosen slice (else the middle one, axial, of the first volume)."""
    if not is_nifti(file):
        raise _invalid("the bytes are no NIfTI file in one piece (.nii or .nii.gz)")
    stream = _inflated(file) if is_gzip(file) else io.BytesIO(file)
    try:
        is_first = is_nifti_1(stream.read(_HEAD_BYTES))
        stream.seek(0)
        kind: Any = nibabel.Nifti1Image if is_first else nibabel.Nifti2Image
        volume = kind.from_stream(stream)
        return _slice_of(volume, choice, max_pixels)
    except MedicalImageError:
        raise
    except Exception as error:
        # nibabel raises what it stumbles over, with values of the file in its texts
        raise _invalid("the NIfTI file is damaged or truncated") from error


def _slice_of(volume: Any, choice: Choice, max_pixels: int) -> Slice:
    shape = cast("tuple[int, ...]", volume.shape)
    kind = volume.get_data_dtype()
    if len(shape) not in (3, 4) or not all(1 <= side <= MAX_SIDE for side in shape):
        raise _invalid(f"the volume needs 3 or 4 dimensions of 1 to {MAX_SIDE} each")
    if kind.kind not in _KINDS:
        raise _invalid("the values of the volume are neither integers nor real numbers")
    orientation = nibabel.orientations.io_orientation(volume.affine)
    if np.isnan(orientation).any():
        raise _invalid("the orientation of the volume is not told")
    plane = choice.plane or "axial"
    axes = [int(axis) for axis in orientation[:, 0]]  # file axis -> world axis R, A, S
    flips = [float(flip) for flip in orientation[:, 1]]
    file_axis = axes.index(_AXES[plane])
    num_slices, num_volumes = shape[file_axis], shape[3] if len(shape) == 4 else 1
    if shape[0] * shape[1] * shape[2] // num_slices > max_pixels:
        raise MedicalImageError("image_too_large", f"a slice has more than {max_pixels} pixels")
    number = _chosen("slice", choice.slice, num_slices, num_slices // 2 + 1)
    volume_number = _chosen("frame", choice.frame, num_volumes, 1)
    place = number - 1 if flips[file_axis] > 0 else num_slices - number
    index: list[Any] = [slice(None)] * 3
    index[file_axis] = place
    if len(shape) == 4:
        index.append(volume_number - 1)
    values = np.asarray(volume.dataobj[tuple(index)], np.float64)
    kept = [axis for axis in range(3) if axis != file_axis]
    for position, axis in enumerate(kept):
        if flips[axis] < 0:
            values = np.flip(values, position)
    if axes[kept[0]] > axes[kept[1]]:
        values = values.T
    # values[i, j] now grows to the right and to the front, or to the front or right and up
    values = np.flip(values.T, 0)
    if plane != "sagittal":
        values = np.flip(values, 1)  # the patient's right at the left of the picture
    return Slice(
        np.ascontiguousarray(values), number, num_slices, volume_number, num_volumes,
        kind.itemsize * 8,
    )  # fmt: skip


def _chosen(field: str, number: int | None, most: int, default: int) -> int:
    if number is None:
        return default
    if not 1 <= number <= most:
        raise MedicalImageError(
            "invalid_value", f"{field} is {number}; this file has 1 to {most}", field=field
        )
    return number


def _inflated(file: bytes) -> io.BytesIO:
    """Inflate piece by piece: in one go the volume would be held twice while it is put together."""
    inflater, stream = zlib.decompressobj(zlib.MAX_WBITS | 16), io.BytesIO()
    for start in range(0, len(file), _PIECE_BYTES):
        try:
            piece = file[start : start + _PIECE_BYTES]
            stream.write(inflater.decompress(piece, MAX_INFLATED_BYTES - stream.tell()))
        except zlib.error:
            raise _invalid("the gzip stream is damaged") from None
        if stream.tell() >= MAX_INFLATED_BYTES:
            raise MedicalImageError(
                "image_too_large", f"the volume inflates to {MAX_INFLATED_BYTES} bytes or more"
            )
    stream.seek(0)
    return stream


def _invalid(message: str) -> MedicalImageError:
    return MedicalImageError("invalid_image", message)
