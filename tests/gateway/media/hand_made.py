"""TIFF, GIF and BMP files made by hand: their headers claim what no program would write."""

import struct

TiffTag = tuple[int, int, int, int]
"""Tag, type (3: 16 bits, 4: 32 bits), count, and the value or its place (TIFF 6.0, section 2)."""

_NETSCAPE = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
_GIF_BLACK = b"\x02\x02\x44\x01\0"
"""One pixel of colour 0, packed by LZW: clear, 0, end (GIF89a, appendix F)."""


def tiff(
    width: int, height: int, data: bytes = b"", pages: int = 1, changes: tuple[TiffTag, ...] = ()
) -> bytes:
    """Return a grey TIFF whose strip is `data`; `changes` replace or add tags of every page."""
    place = 8
    tags: dict[int, TiffTag] = {
        tag[0]: tag
        for tag in (
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, place), (277, 3, 1, 1), (278, 4, 1, height),
            (279, 4, 1, len(data)),
            *changes,
        )
    }  # fmt: skip
    fields = b"".join(struct.pack("<HHII", *tags[number]) for number in sorted(tags))
    head = struct.pack("<H", len(tags)) + fields
    first = place + len(data)
    following = (first + (len(head) + 4) * number for number in range(1, pages))
    directories = b"".join(head + struct.pack("<I", place) for place in (*following, 0))
    return b"II*\0" + struct.pack("<I", first) + data + directories


def gif(width: int, height: int, frames: int = 1, comment: bytes = b"") -> bytes:
    """Return a GIF of black and white whose frames are one black pixel each."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    comments = b"".join(_sub_blocks(b"\x21\xfe", comment)) if comment else b""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + _GIF_BLACK
    return screen + b"\0\0\0\xff\xff\xff" + _NETSCAPE + comments + frame * frames + b"\x3b"


def bmp(width: int, height: int, data: bytes = b"", bits: int = 1, compression: int = 0) -> bytes:
    """Return a BMP of these claims."""
    colours = b"\0\0\0\0\xff\xff\xff\0" if bits == 1 else b"\0\0\0\0" * 256
    start = 14 + 40 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + colours + data


def _sub_blocks(introducer: bytes, content: bytes) -> list[bytes]:
    pieces = [content[at : at + 255] for at in range(0, len(content), 255)]
    return [introducer, *(bytes([len(piece)]) + piece for piece in pieces), b"\0"]
