"""What a compressed frame states itself, checked before a decoder allocates for it: size and tiles.

What does *not* live here: decoding.
"""

import struct

_FRAME_STARTS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                           *range(0xCD, 0xD0), 0xF7))  # fmt: skip
"""JPEG (ITU-T T.81, table B.1) and JPEG-LS (T.87, C.1)."""
_JPEG2000_START = b"\xff\x4f\xff\x51"
"""SOC and SIZ (ITU-T T.800, A.3)."""
_TILE_PART = b"\xff\x90"
"""JPEG 2000 (ITU-T T.800, A.4.2); coded data hold no marker above 0xFF8F (B.10.1)."""
_SIZ = len(_JPEG2000_START)
"""Where the content of the size segment begins."""


def without_boxes(frame: bytes) -> bytes:
    """Return a JPEG 2000 stream without the boxes of a JP2 file around it (PS3.5, A.4.4).

    pydicom looks for the stream box by box, for ever where one says that it has no bytes.
    """
    start = frame.find(_JPEG2000_START) if frame[4:8] == b"jP  " else -1
    return frame[start:] if start > 0 else frame


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return width, height and number of components; None: it states none, or is damaged."""
    try:
        if frame.startswith(_JPEG2000_START):
            return _jpeg2000(frame)
        if frame.startswith(b"\xff\xd8"):
            return _jpeg(frame)
    except (struct.error, ValueError):
        return None
    return None


def lacks_tiles(frame: bytes) -> bool:
    """Whether a JPEG 2000 frame has fewer tiles than it states: OpenJPEG leaves them black."""
    if not frame.startswith(_JPEG2000_START):
        return False
    try:
        right, bottom = struct.unpack_from(">2I", frame, _SIZ + 4)
        width, height, left, top = struct.unpack_from(">4I", frame, _SIZ + 20)
        across, down = -((left - right) // width), -((top - bottom) // height)
    except (struct.error, ValueError, ZeroDivisionError):
        return True
    return frame.count(_TILE_PART) < across * down


def _jpeg2000(frame: bytes) -> tuple[int, int, int]:
    """ITU-T T.800, A.5.1."""
    right, bottom, left, top = struct.unpack_from(">4I", frame, _SIZ + 4)
    (components,) = struct.unpack_from(">H", frame, _SIZ + 36)
    return right - left, bottom - top, components


def jpeg_precision(frame: bytes) -> int:
    """Return the bits of a sample that a JPEG stream states; 0: it states none."""
    try:
        position = _jpeg_frame_header(frame)
    except struct.error:
        return 0
    return 0 if position is None else frame[position + 4]


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    position = _jpeg_frame_header(frame)
    if position is None:
        return None
    height, width, components = struct.unpack_from(">HHB", frame, position + 5)
    return width, height, components


def _jpeg_frame_header(frame: bytes) -> int | None:
    position = 2
    while position + 4 <= len(frame):
        marker, code = frame[position], frame[position + 1]
        if marker != 0xFF:
            return None
        if code == 0xFF:  # a fill byte
            position += 1
            continue
        if code in _FRAME_STARTS:
            return position if position + 10 <= len(frame) else None
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
