"""Walks the elements of a DICOM file without understanding them, and keeps some of them.

Everything but the tags that are asked for is stepped over by its length: no text of a patient is
ever decoded. Nothing recurses, and depth, number and sizes have limits, so a hostile file costs no
more than one walk over its bytes. What does *not* live here: what the elements mean (`dicom.py`).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.signatures import DICOM_PREAMBLE_BYTES, is_dicom

MAX_INFLATED_BYTES = 64 * 2**20
MAX_ELEMENTS = 200_000
MAX_DEPTH = 32
MAX_STEPS_TO_SIZE = 512
"""Elements looked at where only the size is asked for: it stands among the first ones."""
MAX_KEPT_BYTES = 16 * 2**20
"""Of all kept elements but the pixels: functional groups of a thousand frames take about 1 MiB."""

ROWS, COLUMNS = 0x00280010, 0x00280011
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
MEDIA_STORAGE_CLASS = 0x00020002

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

_LONGEST_HEADER = 12
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# PS3.5, 7.1.2: these have two reserved bytes and a length of 32 bits
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)


class FileBytes(Protocol):
    """A file's bytes, or what stands for them where few of them are looked at."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, place: slice, /) -> bytes:
        """Those of a place, fewer at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Elements:
    """The kept elements of a file.

    Args:
        kept: each as it stands in the file, header included, by tag.
        pixels: value of the pixel data; None: there is none.
        pixels_vr: how their bytes are ordered: OB, or OW in words.
        is_encapsulated: the pixels are fragments of a compressed stream.
    """

    transfer_syntax: str
    is_explicit: bool
    is_little_endian: bool
    kept: dict[int, bytes] = field(default_factory=dict[int, bytes])
    pixels: bytes | None = None
    is_encapsulated: bool = False
    pixels_vr: str = "OW"


@dataclass(frozen=True, slots=True)
class _Header:
    tag: int
    vr: bytes
    length: int
    value: int


def read_elements(file: bytes, wanted: frozenset[int]) -> Elements:
    """Return the wanted elements of the data set's top level, and the pixels.

    Raises:
        MedicalImageError: the file is no DICOM file, damaged, or beyond a limit.
    """
    if not is_dicom(file):
        raise _invalid("the file has no DICOM preamble (128 bytes, then DICM)")
    syntax, start = _read_meta(file)
    is_little, is_explicit = syntax != EXPLICIT_BIG, syntax != IMPLICIT_LITTLE
    if syntax == DEFLATED:
        file, start = _inflate(file[start:]), 0
    walk = _Walk(file, is_little=is_little)
    found = walk.top_level(start, wanted, is_explicit=is_explicit)
    pixels = None
    if walk.pixels is not None:
        pixels = file[walk.pixels[0] : walk.pixels[1]]
    return Elements(
        syntax, is_explicit, is_little, found, pixels, walk.is_encapsulated, walk.pixels_vr
    )


def read_size(file: FileBytes) -> tuple[int, int] | None:
    """Return a DICOM file's width and height from as few bytes as say it; None: they do not.

    Those of deflated and big-endian files never do.

    Raises:
        MedicalImageError: as `read_elements`, and where it stands too far behind.
    """
    syntax, start = _read_meta(file, MAX_STEPS_TO_SIZE)
    if syntax in (DEFLATED, EXPLICIT_BIG):
        return None
    walk = _Walk(file, is_little=True, most=MAX_STEPS_TO_SIZE)
    sides: dict[int, int] = {}
    for header, end in walk.elements(start, is_explicit=syntax != IMPLICIT_LITTLE):
        if header.tag in (ROWS, COLUMNS) and header.length == 2:
            sides[header.tag] = int.from_bytes(file[header.value : end], "little")
        if len(sides) == 2:
            return sides[COLUMNS], sides[ROWS]
    return None


def _read_meta(file: FileBytes, most: int = MAX_ELEMENTS) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins (PS3.10, 7.1)."""
    walk = _Walk(file, is_little=True, most=most)
    position, syntax = DICOM_PREAMBLE_BYTES, ""
    while position + 8 <= len(file) and file[position : position + 2] == b"\x02\x00":
        header = walk.header(position, is_explicit=True)
        end = walk.end_of(header)
        value = file[header.value : end].rstrip(b"\0 ") if end - header.value <= 64 else b""
        if header.tag == TRANSFER_SYNTAX:
            syntax = value.decode("ascii", "replace")
        if header.tag == MEDIA_STORAGE_CLASS and value == DICOMDIR_CLASS.encode():
            raise _invalid("the file is a DICOMDIR, an index of other files; send an image")
        position = end
    if not syntax:
        raise _invalid("the file names no transfer syntax in its file meta information")
    return syntax, position


def _inflate(deflated: bytes) -> bytes:
    """Inflate a data set (PS3.5, A.5) up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(deflated, MAX_INFLATED_BYTES + 1)
    except zlib.error:
        raise _invalid("the deflated data set is damaged") from None
    if len(inflated) > MAX_INFLATED_BYTES:
        raise MedicalImageError(
            "image_too_large", f"the data set inflates to more than {MAX_INFLATED_BYTES} bytes"
        )
    if not inflater.eof:
        raise _invalid("the deflated data set is truncated")
    return inflated


class _Walk:
    """One pass over a data set; counts what it meets."""

    def __init__(self, file: FileBytes, *, is_little: bool, most: int = MAX_ELEMENTS) -> None:
        self._file = file
        self._most = most
        order = "<" if is_little else ">"
        self._tag = struct.Struct(order + "HH")
        self._short, self._long = struct.Struct(order + "H"), struct.Struct(order + "I")
        self._num_elements = 0
        self.pixels: tuple[int, int] | None = None
        self.is_encapsulated = False
        self.pixels_vr = "OW"

    def top_level(
        self, position: int, wanted: frozenset[int], *, is_explicit: bool
    ) -> dict[int, bytes]:
        """Return the wanted elements up to the pixels, which are noted."""
        found: dict[int, bytes] = {}
        num_kept_bytes = 0
        for header, end in self.elements(position, is_explicit=is_explicit):
            if header.tag in wanted:
                if header.tag in found:  # readers differ in which of the two they take
                    raise _invalid("an element that says what the pixels are stands twice")
                num_kept_bytes += end - position
                if num_kept_bytes > MAX_KEPT_BYTES:
                    raise _invalid(f"the header has more than {MAX_KEPT_BYTES} bytes of use")
                found[header.tag] = self._file[position:end]
            position = end
        return found

    def elements(self, position: int, *, is_explicit: bool) -> Iterator[tuple[_Header, int]]:
        """Yield each element of the top level with its end, up to the pixels, which are noted."""
        while position + 8 <= len(self._file):
            header = self.header(position, is_explicit=is_explicit)
            if header.tag == PIXEL_DATA:
                self._note_pixels(header)
                return
            if header.length == _UNDEFINED:
                position = self._end_of_sequence(header, is_explicit=is_explicit)
            else:
                position = self.end_of(header)
            yield header, position

    def header(self, position: int, *, is_explicit: bool) -> _Header:
        """Return tag, VR, length and place of the value of an element."""
        self._num_elements += 1
        if self._num_elements > self._most:
            raise _invalid(f"the file has more than {self._most} elements")
        head = self._file[position : position + _LONGEST_HEADER]
        try:
            group, element = self._tag.unpack_from(head)
            tag = group << 16 | element
            if not is_explicit or group == 0xFFFE:
                return _Header(tag, b"", self._long.unpack_from(head, 4)[0], position + 8)
            vr = head[4:6]
            if vr in _LONG_VRS:
                return _Header(tag, vr, self._long.unpack_from(head, 8)[0], position + 12)
            if not (vr.isalpha() and vr.isupper()):
                raise _invalid("an element has no valid value representation")
            return _Header(tag, vr, self._short.unpack_from(head, 6)[0], position + 8)
        except struct.error:
            raise _invalid("the file ends within an element: it is truncated") from None

    def end_of(self, header: _Header) -> int:
        """Return where an element of known length ends."""
        end = header.value + header.length
        if header.length == _UNDEFINED or end > len(self._file):
            raise _invalid("an element is longer than the file: it is truncated or damaged")
        return end

    def _note_pixels(self, header: _Header) -> None:
        self.pixels_vr = "OB" if header.vr == b"OB" else "OW"  # implicit VR: OW (PS3.5, A.1)
        if header.length != _UNDEFINED:
            self.pixels = (header.value, self.end_of(header))
            return
        self.is_encapsulated = True
        position = header.value
        while True:
            fragment = self.header(position, is_explicit=False)
            if fragment.tag == _SEQUENCE_END:
                self.pixels = (header.value, position)
                return
            if fragment.tag != _ITEM:
                raise _invalid("the compressed pixel data are damaged")
            position = self.end_of(fragment)

    def _end_of_sequence(self, header: _Header, *, is_explicit: bool) -> int:
        """Step over a sequence of undefined length, however deep, with a stack of our own."""
        position = header.value
        # UN of undefined length holds implicit VR (PS3.5, 6.2.2, note 2)
        stack = [("sequence", is_explicit and header.vr != b"UN")]
        while stack:
            if len(stack) > MAX_DEPTH:
                raise _invalid(f"sequences are nested deeper than {MAX_DEPTH} levels")
            kind, explicit = stack[-1]
            each = self.header(position, is_explicit=explicit)
            position = each.value
            if each.tag == (_SEQUENCE_END if kind == "sequence" else _ITEM_END):
                stack.pop()
            elif kind == "sequence" and each.tag != _ITEM:
                raise _invalid("a sequence holds something that is no item")
            elif each.length == _UNDEFINED:
                below = "item" if kind == "sequence" else "sequence"
                stack.append((below, explicit and each.vr != b"UN"))
            else:
                position = self.end_of(each)
        return position


def _invalid(message: str) -> MedicalImageError:
    return MedicalImageError("invalid_dicom", message)
