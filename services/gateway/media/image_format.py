"""What an image file is, from its first bytes: pure, and allocates nothing.

What does *not* live here: decoding (`decode_process.py`).
"""

from typing import Literal

from modeling.medical_images.signatures import is_dicom, is_nifti
from services.protocol.errors import ErrorCode, RequestError

MAX_WEBP_PIXELS = 28_000_000
"""libwebp's animation decoder holds four copies of the canvas (measured: 480 MiB at this size)."""

ImageFormat = Literal["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "DICOM", "NIFTI"]

# First bytes of formats that we know and do not take, at offset 0 (Gary Kessler's table of file
# signatures; the WMF ones from [MS-WMF] 2.3.2).
_OTHER_MAGIC = (
    b"%PDF",
    b"%!PS",
    b"\xc5\xd0\xd3\xc6",  # EPS with a preview
    b"8BPS",
    b"SIMPLE  =",  # FITS
    b"DDS ",
    b"\xd7\xcd\xc6\x9a",  # WMF, placeable
    b"\x01\0\x09\0\0\x03",  # WMF
    b"\x01\0\0\0\x6c\0\0\0",  # EMF
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",  # JPEG 2000 code stream
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL ",
    b"\0\0\1\0",  # ICO
    b"RIFF",
    b"PK\x03\x04",
    b"\x1f\x8b",
)
_MAGIC: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
)
_TEXT_SAMPLE_BYTES = 512
_TEXT_BYTES = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\n\r\f") | frozenset(range(0x80, 0x100))


def sniff_format(file: bytes) -> ImageFormat:
    """Return the format of `file`; raises RequestError for all that is none of ours.

    Recognisable other formats and text (HTML, SVG) are an unsupported type, the rest is invalid.
    """
    if is_dicom(file):  # first: its preamble may be anything, such as a TIFF's header
        return "DICOM"
    if file.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if file.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        return "WEBP"
    for magic, name in _MAGIC:
        if file.startswith(magic):
            return name
    if is_nifti(file):
        return "NIFTI"
    if _is_other_format(file):
        raise RequestError(
            ErrorCode.UNSUPPORTED_IMAGE_TYPE,
            "the bytes are not an image of a type that is taken; convert it to JPEG, PNG or DICOM",
        )
    raise RequestError(ErrorCode.INVALID_IMAGE, "the bytes are not an image")


def webp_size(file: bytes) -> tuple[int, int]:
    """Return width and height of a WebP's canvas (RFC 9649, 2.5-2.7)."""
    chunk = file[12:16]
    if chunk == b"VP8X" and len(file) >= 30:
        return _little(file[24:27]) + 1, _little(file[27:30]) + 1
    if chunk == b"VP8 " and len(file) >= 30:
        return _little(file[26:28]) & 0x3FFF, _little(file[28:30]) & 0x3FFF
    if chunk == b"VP8L" and len(file) >= 25:
        bits = _little(file[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise RequestError(ErrorCode.INVALID_IMAGE, "the WebP image is damaged or truncated")


def _is_other_format(file: bytes) -> bool:
    if file.startswith(_OTHER_MAGIC) or file[4:8] == b"ftyp":
        return True
    sample = file[:_TEXT_SAMPLE_BYTES]
    return len(sample) >= 4 and _TEXT_BYTES.issuperset(sample) and _is_utf8(sample)


def _is_utf8(sample: bytes) -> bool:
    # incremental: the sample may end within a character
    try:
        sample.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        return error.end >= len(sample) and error.reason == "unexpected end of data"
    return True


def _little(field: bytes) -> int:
    return int.from_bytes(field, "little")
