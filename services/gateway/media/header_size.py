"""Width and height of an image from the first bytes of its base64. Pure, and decodes no pixel.

Only the few bytes that say the size are decoded, wherever in the file's head they stand: a JPEG's
segments are stepped over, not read. A file that is damaged, or of no known kind, has no size here:
the decoder child decides about it, and it checks every size again. What does *not* live here:
whether the type is taken (`image_format.py`) and what an image costs (`image_costs.py`).
"""

import binascii
from collections.abc import Callable
from typing import Literal, NamedTuple

from modeling.medical_images.dicom_elements import read_size
from modeling.medical_images.errors import MedicalImageError
from services.gateway.media.image_format import webp_size
from services.protocol.errors import ErrorCode, RequestError

MIN_SIDE_PX = 28
"""One patch of the largest grid among the served models (14 px, merged 2 x 2: Qwen2-VL)."""
MAX_ASPECT_RATIO = 200
"""As Qwen2-VL's `smart_resize`; also bounds what resizing the shorter side can blow up."""

_REACH_BYTES = 256 * 1024
"""Sizes that stand further behind are the child's to find."""
_MOST_STEPS = 512
"""Segments of a JPEG or entries of a TIFF's directory looked at."""


_Order = Literal["little", "big"]


class Size(NamedTuple):
    """Pixels, as the file says them (before any EXIF rotation)."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height


class _Short(Exception):  # noqa: N818 - no error of the program
    """The file does not go on so far, or not in base64."""


class _Head:
    """Bytes of a base64 text, decoded where they are asked for."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start
        padding = text.count("=", max(start, len(text) - 2))
        self._length = max((len(text) - start) // 4 * 3 - padding, 0)

    def read(self, offset: int, count: int) -> bytes:
        if not 0 <= offset <= _REACH_BYTES - count:
            raise _Short
        first = offset // 3
        digits = self._text[self._start + 4 * first : self._start + 4 * ((offset + count + 2) // 3)]
        try:
            found = binascii.a2b_base64(digits, strict_mode=True)[offset - 3 * first :][:count]
        except ValueError:  # a cut group, or no ASCII
            raise _Short from None
        if len(found) < count:
            raise _Short
        return found

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: slice, /) -> bytes:
        start, end, _ = place.indices(len(self))
        return self.read(start, max(end - start, 0))

    def number(self, offset: int, count: int, order: _Order) -> int:
        return int.from_bytes(self.read(offset, count), order)


def header_size(text: str, payload_start: int = 0) -> Size | None:
    """Return the size of the image whose base64 begins at `payload_start`; None: not known here.

    JPEG, PNG, WebP, GIF, BMP, TIFF and DICOM (one frame's) are known.
    """
    head = _Head(text, payload_start)
    try:
        magic = head.read(0, 12)
        if _is_dicom(head):  # before the others: its preamble may be that of a TIFF (PS3.10, 7.1)
            return _positive(_dicom(head))
        for signature, read_size in _READERS:
            if magic.startswith(signature):
                return _positive(read_size(head))
    except (_Short, RequestError, MedicalImageError):  # of webp_size and read_size: damaged
        pass
    return None


def check_size(size: Size, max_pixels: int, *, param: str | None = None) -> None:
    """Raise RequestError for an image that is too large, too small or too narrow."""
    width, height = size
    if size.pixels > max_pixels:
        raise RequestError(
            ErrorCode.IMAGE_TOO_LARGE,
            too_large(max_pixels),
            param=param,
        )
    short, long = sorted(size)
    if short < MIN_SIDE_PX:
        raise RequestError(
            ErrorCode.IMAGE_TOO_SMALL,
            f"the image is {width} x {height} pixels; each side needs at least {MIN_SIDE_PX}",
            param=param,
        )
    if long > short * MAX_ASPECT_RATIO:
        raise RequestError(
            ErrorCode.IMAGE_TOO_SMALL,
            f"the image is {width} x {height} pixels; its shorter side needs at least"
            f" 1/{MAX_ASPECT_RATIO} of the longer one",
            param=param,
        )


def too_large(max_pixels: int) -> str:
    """Return what is said of an image of more pixels."""
    return f"the image has more than the {max_pixels} pixels that are taken; scale it down"


def _positive(size: Size | None) -> Size | None:
    return size if size is not None and min(size) > 0 else None


def _png(head: _Head) -> Size | None:
    """PNG, third edition, 11.2.1: IHDR is the first chunk."""
    if head.read(12, 4) != b"IHDR":
        return None
    return Size(head.number(16, 4, "big"), head.number(20, 4, "big"))


def _gif(head: _Head) -> Size:
    """GIF89a, 18: the logical screen."""
    return Size(head.number(6, 2, "little"), head.number(8, 2, "little"))


def _bmp(head: _Head) -> Size:
    """BITMAPCOREHEADER has 16-bit sides, the later ones signed 32-bit ones."""
    if head.number(14, 4, "little") == 12:
        return Size(head.number(18, 2, "little"), head.number(20, 2, "little"))
    height = int.from_bytes(head.read(22, 4), "little", signed=True)
    return Size(head.number(18, 4, "little"), abs(height))  # negative: top row first


def _webp(head: _Head) -> Size | None:
    if head.read(8, 4) != b"WEBP":
        return None
    wanted = 25 if head.read(12, 4) == b"VP8L" else 30
    return Size(*webp_size(head.read(0, wanted)))


# ITU-T T.81, table B.1: SOF0..SOF15 without DHT, JPG and DAC; markers without a length
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN_OR_END = frozenset({0xDA, 0xD9})


def _jpeg(head: _Head) -> Size | None:
    at = 2
    for _ in range(_MOST_STEPS):
        fill, marker = head.read(at, 2)
        if fill != 0xFF or marker in _SCAN_OR_END:
            return None
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _SOF:
            return Size(head.number(at + 7, 2, "big"), head.number(at + 5, 2, "big"))
        else:
            at += 2 + head.number(at + 2, 2, "big")
    return None


_TIFF_WIDTH, _TIFF_LENGTH = 256, 257
_TIFF_SHORT, _TIFF_LONG = 3, 4


def _tiff(head: _Head) -> Size | None:
    """TIFF 6.0, section 2: the first directory's entries, of 12 bytes."""
    order: _Order = "little" if head.read(0, 2) == b"II" else "big"
    at = head.number(4, 4, order)
    sides: dict[int, int] = {}
    for index in range(min(head.number(at, 2, order), _MOST_STEPS)):
        entry = at + 2 + 12 * index
        tag, kind = head.number(entry, 2, order), head.number(entry + 2, 2, order)
        if tag in (_TIFF_WIDTH, _TIFF_LENGTH) and kind in (_TIFF_SHORT, _TIFF_LONG):
            sides[tag] = head.number(entry + 8, 2 if kind == _TIFF_SHORT else 4, order)
        if len(sides) == 2:
            return Size(sides[_TIFF_WIDTH], sides[_TIFF_LENGTH])
    return None


def _is_dicom(head: _Head) -> bool:
    try:
        return head.read(128, 4) == b"DICM"
    except _Short:
        return False


def _dicom(head: _Head) -> Size | None:
    size = read_size(head)
    return None if size is None else Size(*size)


_READERS: tuple[tuple[bytes, Callable[[_Head], Size | None]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
)
