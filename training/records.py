"""Training data as it lies on disk: LLaVA-Med's JSON (a list of objects) or JSONL, read lazily.

A file is mapped, not read: one pass parses each record to check it, keeps where it lies (16 bytes)
and forgets it, so memory grows with the number of records and not with their text. What does *not*
live here: what a record means (`examples.py`).
"""

import array
import bisect
import codecs
import hashlib
import itertools
import json
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import TrainingError

_WINDOW_BYTES = 4 << 20
_MOST_RECORD_BYTES = 64 << 20
"""Longer than any conversation; a whole file that is no list of records is not parsed at once."""
_WHITE_SPACE = re.compile(r"[ \t\n\r]*")
_LFS_POINTER = b"version https://git-lfs"
_LONGEST_LITERAL = 16  # characters of a number or a name that the end of a window may cut


class RecordFile:
    """The records of one file, by number.

    Args:
        path: UTF-8, with or without a byte-order mark.

    Raises:
        TrainingError: it cannot be read, is no list of objects, or holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped = _map(path)
        self.num_bytes = len(self._mapped)
        self.sha256 = _hash(self._mapped)
        index = _Index(path, self._mapped)
        self._spans = index.spans
        self._lines = index.lines

    def __len__(self) -> int:
        return len(self._spans)

    def record(self, number: int) -> dict[str, Any]:
        """Return a record, parsed anew."""
        start, end = self._spans[number]
        return json.loads(self._mapped[start:end])

    def line(self, number: int) -> int | None:
        """Return the line that a record of JSONL begins in, from 1; None in a list."""
        return None if self._lines is None else int(self._lines[number])

    def where(self, number: int) -> str:
        """Return a record's place in words: its number from 0 and, of JSONL, its line from 1."""
        line = self.line(number)
        return f"{self.path} record {number}" + ("" if line is None else f" (line {line})")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapping: another process maps the file itself."""
        return {name: value for name, value in vars(self).items() if name != "_mapped"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mapped = _map(self.path)
        if len(self._mapped) != self.num_bytes:
            raise TrainingError(f"{self.path} changed while it was in use; start again")


class Records:
    """The records of several files as one row.

    Raises:
        TrainingError: as `RecordFile` says.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [RecordFile(path) for path in paths]
        self._ends = list(itertools.accumulate(len(file) for file in self.files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def data_hash(self) -> str:
        """SHA-256 of the files' hashes, in their order."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    def record(self, index: int) -> dict[str, Any]:
        """Return a record, parsed anew."""
        file, number = self.place(index)
        return file.record(number)

    def place(self, index: int) -> tuple[RecordFile, int]:
        """Return a record's file and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        which = bisect.bisect_right(self._ends, index)
        return self.files[which], index - (self._ends[which - 1] if which else 0)

    def where(self, index: int) -> str:
        """Return a record's place in words: `FILE record 12`."""
        file, number = self.place(index)
        return file.where(number)


class _Index:
    """One pass over a file: where each record lies.

    Args:
        mapped: bytes; read as Latin-1, in which one character is one byte and JSON's own
            characters are the same. That texts are UTF-8 is checked record by record.
    """

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self._path = path
        self._mapped = mapped
        self._decode = json.JSONDecoder().raw_decode
        self._start = len(codecs.BOM_UTF8) if mapped[:3] == codecs.BOM_UTF8 else 0
        self._text = ""  # a window of the file
        self._at = 0  # in the window
        self._line = 1
        self._found = array.array("q")
        self._found_lines = array.array("q")
        is_list = self._find()
        self.spans = np.frombuffer(self._found, np.int64).reshape(-1, 2)
        self.lines = None if is_list else np.frombuffer(self._found_lines, np.int64)

    def _find(self) -> bool:
        """Find all records; returns whether they are the members of one list."""
        first = self._next_character()
        if first == "[":
            self._at += 1
            self._find_members()
        elif first == "{":
            self._find_lines()
        elif not first:
            raise TrainingError(f"{self._path} is empty; give a JSON list of records, or JSONL")
        elif self._mapped[: len(_LFS_POINTER)] == _LFS_POINTER:
            raise TrainingError(
                f"{self._path} is a Git LFS pointer, not the data; run `git lfs pull` where it "
                "comes from"
            )
        else:
            raise TrainingError(
                f"{self._path} is neither a JSON list of records nor JSONL; its first character "
                f"must be [ or {{"
            )
        if not self._found:
            raise TrainingError(f"{self._path} holds no records; give one that does")
        return first == "["

    def _find_members(self) -> None:
        character = self._next_character()
        while character != "]":
            self._read_record()
            character = self._next_character()
            if character == ",":
                self._at += 1
                self._next_character()
            elif character != "]":
                raise self._broken("no , or ] behind it", before=1)
        self._at += 1
        if self._next_character():
            raise TrainingError(f"{self._path} goes on behind the end of its list; remove the rest")

    def _find_lines(self) -> None:
        while self._next_character():
            self._found_lines.append(self._line)
            value = self._read_record()
            has_turns = "conversations" in value or "conversatons" in value
            if len(self._found) == 2 and not has_turns and not self._next_character():
                raise TrainingError(
                    f"{self._path} holds one object, no list of records; give a JSON list, or "
                    "JSONL with one record a line"
                )

    def _read_record(self) -> dict[str, Any]:
        value, length = self._read_value()
        if not isinstance(value, dict):
            raise TrainingError(
                f"{self._place()} is no object; each record is one, with `conversations`"
            )
        start = self._start + self._at
        if not self._text[self._at : self._at + length].isascii():
            try:
                self._mapped[start : start + length].decode()
            except UnicodeDecodeError as error:
                raise TrainingError(
                    f"{self._place()} is not UTF-8 at byte {start + error.start}; convert the file"
                ) from error
        self._found.extend((start, start + length))
        self._advance(length)
        return value

    def _read_value(self) -> tuple[object, int]:
        """Return the value at this place, and its length; nothing is passed over."""
        last: tuple[str, int] | None = None
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                mistake = (error.msg, error.pos - self._at)
                if not self._may_be_cut(error, is_repeated=mistake == last) or not self._widen():
                    raise self._broken(*mistake) from error
                last = mistake
            except RecursionError as error:
                raise self._broken("too many levels") from error
            else:
                return value, end - self._at

    def _may_be_cut(self, error: json.JSONDecodeError, *, is_repeated: bool) -> bool:
        """Whether a mistake may come from the window's end alone."""
        if error.msg.startswith("Unterminated string"):
            return True
        is_at_end = error.pos >= len(self._text) - _LONGEST_LITERAL
        return is_at_end or (not is_repeated and error.msg.startswith("Invalid \\"))

    def _next_character(self) -> str:
        """Pass over white space; returns the character behind it, at the end an empty text."""
        while True:
            found = _WHITE_SPACE.match(self._text, self._at)
            self._advance(found.end() - self._at if found else 0)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._widen():
                return ""

    def _advance(self, length: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + length)
        self._at += length

    def _widen(self) -> bool:
        """Let the window begin here and hold more of what follows; false at the file's end."""
        start, end = self._start + self._at, self._start + len(self._text)
        if end >= len(self._mapped):
            return False
        size = max(_WINDOW_BYTES, 2 * (end - start))
        if size > 2 * _MOST_RECORD_BYTES:
            raise self._broken(f"longer than {_MOST_RECORD_BYTES >> 20} MiB, or not closed")
        self._text = self._mapped[start : start + size].decode("latin-1")
        self._start, self._at = start, 0
        return True

    def _broken(self, why: str, offset: int = 0, before: int = 0) -> TrainingError:
        byte = self._start + self._at + offset
        return TrainingError(
            f"{self._place(before)}: broken JSON at byte {byte} ({why}); correct the file"
        )

    def _place(self, before: int = 0) -> str:
        line = f" (line {self._line})" if self._found_lines else ""
        return f"{self._path} record {len(self._found) // 2 - before}{line}"


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # of no bytes
        raise TrainingError(f"{path} is empty; give a JSON list of records, or JSONL") from error
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be read ({error.strerror}); data.files names the files of records"
        ) from error


def _hash(mapped: mmap.mmap) -> str:
    digest = hashlib.sha256()
    with memoryview(mapped) as view:
        for start in range(0, len(view), _WINDOW_BYTES):
            digest.update(view[start : start + _WINDOW_BYTES])
    return digest.hexdigest()
