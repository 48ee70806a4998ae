"""Members of a tar, gzipped or not, while its bytes come: bounded memory, whatever it claims.

`tarfile` parses each header, and no more of it is used: its stream mode keeps a list of all
members, and reads a pax header or a long name of any claimed size into memory. Nothing is written
here, and no name becomes a path. What does *not* live here: which members count (`extracting.py`).
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from datagen.download import reasons

_BLOCK_BYTES = 512
_PIECE_BYTES = 1 << 18
_MOST_HEADER_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31


class ArchiveError(Exception):
    """An archive that cannot be read on.

    Args:
        reason: one of `reasons`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Member:
    """A member's header.

    Args:
        is_file: a regular file with bytes of its own; a link is none.
    """

    name: str
    size: int
    is_file: bool


class Unpacked:
    """The bytes of a tar out of the pieces of its file, which may be gzipped.

    Args:
        most_bytes: of the whole tar, unpacked; more raise ArchiveError.
    """

    def __init__(self, chunks: Iterator[bytes], most_bytes: int) -> None:
        self._chunks = chunks
        self._left_bytes = most_bytes
        self._raw = b""
        while len(self._raw) < len(_GZIP_MAGIC) and (chunk := next(chunks, b"")):
            self._raw += chunk
        is_gzip = self._raw.startswith(_GZIP_MAGIC)
        self._zip = zlib.decompressobj(_GZIP_WBITS) if is_gzip else None
        self._piece = memoryview(b"")

    def take(self, count: int) -> Iterator[memoryview]:
        """Yield the next bytes in pieces; raises ArchiveError where they end before."""
        while count > 0:
            if not self._piece:
                self._piece = memoryview(self._next_piece())
                if not self._piece:
                    raise ArchiveError(reasons.ARCHIVE_CORRUPT)
            part = self._piece[:count]
            self._piece = self._piece[count:]
            count -= len(part)
            yield part

    def read(self, count: int) -> bytes:
        """Return the next bytes, all of them."""
        return b"".join(self.take(count))

    def is_at_end(self) -> bool:
        """Whether nothing follows."""
        if not self._piece:
            self._piece = memoryview(self._next_piece())
        return not self._piece

    def _next_piece(self) -> bytes:
        piece = self._plain() if self._zip is None else self._inflated()
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise ArchiveError(reasons.ARCHIVE_TOO_LARGE)
        return piece

    def _plain(self) -> bytes:
        raw, self._raw = self._raw, b""
        return raw or next(self._chunks, b"")

    def _inflated(self) -> bytes:
        """Return a piece of bounded size; b"" at the end."""
        while True:
            assert self._zip is not None  # noqa: S101 - of a gzipped one
            if self._zip.eof:
                rest = self._zip.unused_data or next(self._chunks, b"")
                if not rest.startswith(_GZIP_MAGIC):  # padding, or nothing
                    return b""
                self._zip, self._raw = zlib.decompressobj(_GZIP_WBITS), rest
            elif not self._raw:
                self._raw = next(self._chunks, b"")
                if not self._raw:
                    raise ArchiveError(reasons.ARCHIVE_CORRUPT)
            try:
                piece = self._zip.decompress(self._raw, _PIECE_BYTES)
            except zlib.error as error:
                raise ArchiveError(reasons.ARCHIVE_CORRUPT) from error
            self._raw = self._zip.unconsumed_tail
            if piece:
                return piece


class TarStream:
    """Iterate over it for the members; `content` has the bytes of the present one."""

    def __init__(self, data: Unpacked) -> None:
        self._data = data
        self._left = 0
        self._padding = 0
        self._is_first = True

    def __iter__(self) -> Iterator[Member]:
        long_name: str | None = None
        pax: dict[str, str] = {}
        while (info := self._next_header()) is not None:
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = self._header_text(info).rstrip(b"\0").decode("utf-8", "replace")
            elif info.type == tarfile.XHDTYPE:
                pax = _pax_records(self._header_text(info))
            elif info.type not in {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}:
                yield self._member(info, pax.get("path") or long_name or info.name, pax.get("size"))
                long_name, pax = None, {}

    def content(self) -> Iterator[memoryview]:
        """Yield the bytes of the present member, in pieces."""
        for part in self._data.take(self._left):
            self._left -= len(part)
            yield part

    def _next_header(self) -> tarfile.TarInfo | None:
        for _ in self._data.take(self._left + self._padding):
            pass
        self._left = self._padding = 0
        if self._data.is_at_end():
            if self._is_first:
                raise ArchiveError(reasons.NO_ARCHIVE)
            return None
        block = self._first_block() if self._is_first else self._data.read(_BLOCK_BYTES)
        if not block.strip(b"\0"):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise ArchiveError(
                reasons.NO_ARCHIVE if self._is_first else reasons.ARCHIVE_CORRUPT
            ) from error
        self._is_first = False
        if info.size < 0 or info.type == tarfile.GNUTYPE_SPARSE:
            raise ArchiveError(reasons.ARCHIVE_CORRUPT)
        self._announce(info.size if _has_bytes(info) else 0)
        return info

    def _first_block(self) -> bytes:
        """Return the first block; a text that is shorter than one is no archive."""
        try:
            return self._data.read(_BLOCK_BYTES)
        except ArchiveError as error:
            raise ArchiveError(reasons.NO_ARCHIVE) from error

    def _announce(self, size: int) -> None:
        self._left = size
        self._padding = -size % _BLOCK_BYTES

    def _header_text(self, info: tarfile.TarInfo) -> bytes:
        if info.size > _MOST_HEADER_BYTES:
            raise ArchiveError(reasons.ARCHIVE_CORRUPT)
        return b"".join(self.content())

    def _member(self, info: tarfile.TarInfo, name: str, size: str | None) -> Member:
        if size is not None and info.isreg():
            try:
                self._announce(int(size))
            except ValueError as error:
                raise ArchiveError(reasons.ARCHIVE_CORRUPT) from error
            if self._left < 0:
                raise ArchiveError(reasons.ARCHIVE_CORRUPT)
        return Member(name.removeprefix("./"), self._left, info.isreg())


def _has_bytes(info: tarfile.TarInfo) -> bool:
    """Whether a member's size is that of bytes behind its header (as `tarfile` decides it)."""
    return info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in _HEADERS


_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


def _pax_records(text: bytes) -> dict[str, str]:
    """Return the records `LENGTH KEY=VALUE` of a pax header."""
    found: dict[str, str] = {}
    while text and text[:1] != b"\0":
        length, _, _ = text.partition(b" ")
        if not length.isdigit() or not len(length) + 3 < int(length) <= len(text):
            raise ArchiveError(reasons.ARCHIVE_CORRUPT)
        record, text = text[len(length) + 1 : int(length)], text[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found
