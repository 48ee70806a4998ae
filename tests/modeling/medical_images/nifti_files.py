"""NIfTI files of one's own choice, as bytes."""

import gzip

import nibabel
import numpy as np


def nifti(
    volume: np.ndarray, *, is_packed: bool = False, affine: np.ndarray | None = None
) -> bytes:
    """Return a file; without an affine, axes grow to the left, the front and the top (LAS)."""
    if affine is None:
        affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    file = nibabel.Nifti1Image(volume, affine).to_bytes()
    return gzip.compress(file, mtime=0) if is_packed else file
