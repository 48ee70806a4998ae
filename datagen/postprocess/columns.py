"""Columns of numbers about accepted items in temporary files, so that memory holds none of them.

What does *not* live here: what the numbers mean for an item (`near_duplicates.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datagen.postprocess.signatures import NUM_BANDS, NUM_HASHES, Signatures
from datagen.postprocess.words import Hashes

_CHUNK_ROWS = 1 << 16


class ColumnWriter:
    """Appends rows; use it as a context manager.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self.num_rows = 0

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, **columns: npt.NDArray[np.uint64]) -> None:
        """Append a batch of rows."""
        for name, values in columns.items():
            self._write(name, values)
        self.num_rows += len(next(iter(columns.values())))

    def append_signatures(self, signatures: Signatures, bands: Hashes) -> None:
        """Append what belongs to a batch of rows; bands go to a file each."""
        self._write("signature", signatures)
        for band in range(NUM_BANDS):
            self._write(f"band{band}", bands[:, band])

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        self._files[name].write(np.ascontiguousarray(values).tobytes())


class Column:
    """A column of 64-bit numbers that was written."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name

    def chunks(self) -> Iterator[tuple[int, Hashes]]:
        """Yield numbers of first rows, and rows."""
        if not self._path.exists():
            return
        first = 0
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_ROWS * 8):
                values = np.frombuffer(chunk, np.uint64)
                yield first, values
                first += len(values)

    def values(self) -> Iterator[int]:
        """Yield the rows one by one."""
        for _, chunk in self.chunks():
            yield from chunk.tolist()

    def rows(self, numbers: npt.NDArray[np.int64]) -> Hashes:
        """Return some rows."""
        return np.frombuffer(_read_rows(self._path, numbers, 8), np.uint64)


def signature_rows(folder: Path, numbers: npt.NDArray[np.int64]) -> Signatures:
    """Return the signatures of some rows."""
    read = _read_rows(folder / "signature", numbers, NUM_HASHES * 4)
    return np.frombuffer(read, np.uint32).reshape(-1, NUM_HASHES)


def _read_rows(path: Path, numbers: npt.NDArray[np.int64], num_bytes: int) -> bytes:
    parts: list[bytes] = []
    with path.open("rb") as file:
        for number in numbers.tolist():
            file.seek(number * num_bytes)
            parts.append(file.read(num_bytes))
    return b"".join(parts)
