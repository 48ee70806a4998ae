"""Decodes one frame in a process of its own, for decoders that end theirs at damaged data.

GDCM, the one decoder of lossless JPEG here, throws C++ exceptions that nobody catches: the process
is aborted. The gateway decodes in a child that may die; data tools and the evaluation may not, and
come here. As a program, `python -m modeling.medical_images.frame_process FRAME`, it reads a DICOM
file from stdin and writes the stored values as NumPy's .npy to stdout; 0.5 s each.
"""

import io
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling.medical_images.dicom import decode_frame
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError

_LIMIT_S = 60.0


def decode_apart(file: bytes, frame: int) -> NDArray[Any]:
    """Return what `dicom.decode_frame` does; raises MedicalImageError also where the child died."""
    command = [sys.executable, "-P", "-m", "modeling.medical_images.frame_process", str(frame)]
    try:
        ended = subprocess.run(  # noqa: S603 - our own module
            command, input=file, capture_output=True, timeout=_LIMIT_S, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise MedicalImageError(
            "invalid_dicom", "the pixel data are damaged, truncated or not what they claim"
        ) from None
    return np.load(io.BytesIO(ended.stdout), allow_pickle=False)


def main() -> None:
    """Decode what stdin brings; exits with 1 where it cannot be."""
    try:
        stored = decode_frame(read_header(sys.stdin.buffer.read()), int(sys.argv[1]))
    except MedicalImageError:
        sys.exit(1)
    np.save(sys.stdout.buffer, stored, allow_pickle=False)


if __name__ == "__main__":
    main()
