"""The size that a compressed frame states itself: checked before a decoder allocates for it.

What does *not* live here: decoding.
"""

import struct

_FRAME_STARTS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                           *range(0xCD, 0xD0), 0xF7))  # fmt: skip
"""JPEG (ITU-T T.81, table B.1) and JPEG-LS (T.87, C.1)."""


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return width, height and number of components; None: it states none, or is damaged."""
    try:
        if frame.startswith(b"\xff\x4f\xff\x51"):
            return _jpeg2000(frame, 4)
        if frame[4:8] == b"jP  ":  # in the boxes of a JP2 file, which some senders leave around it
            return _jpeg2000(frame, frame.index(b"\xff\x4f\xff\x51") + 4)
        if frame.startswith(b"\xff\xd8"):
            return _jpeg(frame)
    except (struct.error, ValueError):
        return None
    return None


def _jpeg2000(frame: bytes, siz: int) -> tuple[int, int, int]:
    """ITU-T T.800, A.5.1."""
    right, bottom, left, top = struct.unpack_from(">4I", frame, siz + 4)
    (components,) = struct.unpack_from(">H", frame, siz + 36)
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
