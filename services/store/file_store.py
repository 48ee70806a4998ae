"""The content of files: a local folder, or whatever fsspec reaches.

A file is there whole or not at all, and on the disk when a call returns. What does *not* live
here: names, tenants and sizes (`file_records.py`). Calls block: run them in a thread.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs] - it has none
from fsspec.implementations.local import (  # pyright: ignore[reportMissingTypeStubs] - as above
    LocalFileSystem,
)

from modeling.durable_files import sync_to_disk

_PIECE_BYTES = 1 << 20


class StorageFullError(Exception):
    """There is no room left."""


class FileStore:
    """Files by key, such as `files/file-1`.

    Args:
        url: a folder, or an fsspec address.
    """

    def __init__(self, url: str) -> None:
        found = cast("Any", fsspec.core.url_to_fs(url))  # pyright: ignore[reportUnknownMemberType] - as above
        self._files: Any = found[0]
        self._root: str = found[1]

    @property
    def _is_local(self) -> bool:
        return isinstance(self._files, LocalFileSystem)

    @contextmanager
    def writer(self, key: str) -> Generator[IO[bytes]]:
        """Give a file to write; it gets its name when the context ends without an error.

        Raises:
            StorageFullError: there is no room.
            OSError: it cannot be written.
        """
        path = self._path(key)
        partial = f"{path}.{secrets.token_hex(4)}.partial"
        try:
            if self._is_local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with Path(partial).open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                Path(partial).replace(path)
                sync_to_disk(Path(path).parent)
            else:  # its files are complete when they are closed, also by an error
                with self._files.open(partial, "wb") as remote:
                    yield remote
                self._files.mv(partial, path)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFullError from error
            raise
        finally:
            with contextlib.suppress(OSError):
                self._files.rm(partial)

    def put(self, key: str, source: Path) -> None:
        """Copy a local file into the store; raises as `writer` does."""
        with source.open("rb") as file, self.writer(key) as out:
            while piece := file.read(_PIECE_BYTES):
                out.write(piece)

    def open(self, key: str) -> IO[bytes]:
        """Open a file to read; raises FileNotFoundError, OSError."""
        return self._files.open(self._path(key), "rb")

    def pieces(self, key: str) -> Iterator[bytes]:
        """Give a file's content bit by bit; raises as `open` does."""
        with self.open(key) as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that it holds, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(key), recursive=True)

    def _path(self, key: str) -> str:
        if any(part in {"", ".", ".."} for part in key.split("/")):
            raise ValueError(f"{key!r} is no key")
        return f"{self._root}/{key}"
