"""What a compressed frame states itself, checked before a decoder allocates for it: size and tiles.

What does *not* live here: decoding.
"""

import struct

_FRAME_STARTS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                           *range(0xCD, 0xD0), 0xF7))  # fmt: skip
"""JPEG (ITU-T T.81, table B.1) and JPEG-LS (T.87, C.1)."""


_SIZ = b"\xff\x4f\xff\x51"
_TILE_PART = b"\xff\x90"
"""JPEG 2000 (ITU-T T.800, A.4.2); coded data hold no marker above 0xFF8F (B.10.1)."""


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return width, height and number of components; None: it states none, or is damaged."""
    try:
        if (siz := _siz(frame)) is not None:
            return _jpeg2000(frame, siz)
        if frame.startswith(b"\xff\xd8"):
            return _jpeg(frame)
    except (struct.error, ValueError):
        return None
    return None


def lacks_tiles(frame: bytes) -> bool:
    """Whether a JPEG 2000 frame has fewer tiles than it states: OpenJPEG leaves them black."""
    try:
        siz = _siz(frame)
        if siz is None:
            return False
        right, bottom = struct.unpack_from(">2I", frame, siz + 4)
        width, height, left, top = struct.unpack_from(">4I", frame, siz + 20)
        across, down = -((left - right) // width), -((top - bottom) // height)
    except (struct.error, ValueError, ZeroDivisionError):
        return True
    return frame.count(_TILE_PART) < across * down


def _siz(frame: bytes) -> int | None:
    """Return where the content of the size segment begins; None: it is no JPEG 2000."""
    if frame.startswith(_SIZ):
        return len(_SIZ)
    if frame[4:8] == b"jP  ":  # in the boxes of a JP2 file, which some senders leave around it
        return frame.index(_SIZ) + len(_SIZ)
    return None


def _jpeg2000(frame: bytes, siz: int) -> tuple[int, int, int]:
    """ITU-T T.800, A.5.1."""
    right, bottom, left, top = struct.unpack_from(">4I", frame, siz + 4)
    (components,) = struct.unpack_from(">H", frame, siz + 36)
    return right - left, bottom - top, components


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    position = 2
    while position + 4 <= len(frame):
        marker, code = frame[position], frame[position + 1]
        if marker != 0xFF:
            return None
        if code == 0xFF:  # a fill byte
            position += 1
            continue
        if code in _FRAME_STARTS:
            height, width, components = struct.unpack_from(">HHB", frame, position + 5)
            return width, height, components
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
