"""Whether bytes begin as a medical file: pure, and without the libraries that read them.

What does *not* live here: the other image formats (`services/gateway/media/image_format.py`).
"""

import zlib

DICOM_PREAMBLE_BYTES = 132

_NIFTI_HEADER_BYTES = 348


def is_dicom(file: bytes) -> bool:
    """Whether bytes begin as a DICOM file of PS3.10."""
    return file[128:DICOM_PREAMBLE_BYTES] == b"DICM"


def is_nifti(file: bytes) -> bool:
    """Whether bytes begin as a NIfTI file in one piece, packed by gzip or not."""
    if is_gzip(file):
        try:
            file = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(file, _NIFTI_HEADER_BYTES)
        except zlib.error:
            return False
    return is_nifti_1(file) or file[4:12] == b"n+2\0\r\n\x1a\n"


def is_nifti_1(file: bytes) -> bool:
    """Whether bytes, not packed, are NIfTI of version 1."""
    return file[344:348] == b"n+1\0"


def is_gzip(file: bytes) -> bool:
    """Whether bytes are packed by gzip (RFC 1952)."""
    return file.startswith(b"\x1f\x8b")
