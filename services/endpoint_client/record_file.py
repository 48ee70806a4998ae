"""A file of JSON lines that survives a kill at any byte: appended, synced, resumed by key.

What does *not* live here: what the lines mean.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

Visit = Callable[[Mapping[str, object]], None]
_NOT_HELD: Mapping[str, object] = {}


class RecordFileError(Exception):
    """A file that cannot be gone on with; the message says which line."""


class RecordFile:
    """Use it as a context manager; a second process is refused.

    Args:
        key: the field by which a record is known; each is kept once.
        skips_damage: lines that cannot be read are passed over, so that their records come again.
        visit: is told of each record that is there; `records` then holds the keys alone, so that
            a file may be longer than memory.
    """

    def __init__(
        self, path: Path, key: str, *, skips_damage: bool = False, visit: Visit | None = None
    ) -> None:
        self._path = path
        self._key = key
        self._skips_damage = skips_damage
        self._visit = visit
        self.num_damaged = 0
        self._file: BinaryIO | None = None
        self.records: dict[str, Mapping[str, object]] = {}
        """By key, those of earlier calls included."""

    def __enter__(self) -> "RecordFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab+", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(self._file)
        except BlockingIOError as error:
            self._file.close()
            raise RecordFileError(
                f"{self._path} is being written by another process; wait for it, or end it"
            ) from error
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def peek(self) -> None:
        """Read what is there, and change nothing; no file is an empty one."""
        if self._path.exists():
            self._read(None)

    def __contains__(self, key: str) -> bool:
        return key in self.records

    def add(self, record: Mapping[str, object]) -> None:
        """Write a record and sync it, unless its key is there; raises OSError on a full disk."""
        self.add_all([record])

    def add_all(self, records: Sequence[Mapping[str, object]]) -> None:
        """Write records with one sync, all or none; those whose keys are there are left out.

        Raises:
            OSError: the disk is full.
        """
        new: dict[str, Mapping[str, object]] = {}
        for record in records:
            key = str(record[self._key])
            if key not in self.records:
                new.setdefault(key, record)
        if not new:
            return
        assert self._file is not None  # noqa: S101 (entered)
        # ASCII: a lone surrogate is written, too.
        content = b"".join(json.dumps(record).encode() + b"\n" for record in new.values())
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):
                written += self._file.write(content[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(start)  # a rest of a line would be glued to the next one
            raise
        self.records.update(new if self._visit is None else dict.fromkeys(new, _NOT_HELD))

    def _read(self, file: BinaryIO | None) -> None:
        """Read all records.

        Args:
            file: from which a torn last line is cut; None: it stays.
        """
        whole = 0
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):  # its writer was killed
                if file is not None:
                    file.truncate(whole)
                return
            whole += len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = str(record[self._key])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if self._skips_damage:
                    self.num_damaged += 1
                    continue
                raise RecordFileError(
                    f"{self._path}: line {number} is no record of this kind "
                    f"({type(error).__name__}); move the file away, or mend the line"
                ) from error
            found = cast("Mapping[str, object]", record)
            if key in self.records:
                continue
            self.records[key] = found if self._visit is None else _NOT_HELD
            if self._visit is not None:
                self._visit(found)

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:  # buffered, as the one that is written is not
            yield from file
