"""The folder of one download: whose list it holds, and that one process at a time writes there.

    images/  download.sqlite  manifest.jsonl  problems.jsonl  summary.json

What does *not* live here: what the files hold (`index.py`, `manifest.py`).
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Generator
from pathlib import Path

from datagen.download.extracting import remove_partials
from datagen.download.index import Index
from datagen.download.listing import read_lines
from datagen.errors import DataError

IMAGES = "images"
INDEX_FILE = "download.sqlite"
_LOCK_FILE = "download.lock"


class OtherListError(DataError):
    """The folder holds the download of another list."""


@contextlib.contextmanager
def open_folder(out: Path, list_file: Path) -> Generator[Index]:
    """Make a folder, or go on with it; gives its index, which holds the list's lines.

    Raises:
        OtherListError: it is of another list.
        DataError: it holds something else, is being written, or the list cannot be read.
    """
    list_sha256 = _sha256(list_file)
    is_new = not (out / _LOCK_FILE).is_file()
    if is_new and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there and is no download; take another --out")
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    with _locked(out / _LOCK_FILE), Index(out / INDEX_FILE) as index:
        remove_partials(out / IMAGES)
        if index.list_sha256 not in {None, list_sha256}:
            raise OtherListError(f"{out} holds the download of another list; take another --out")
        if index.list_sha256 is None:
            index.fill(lambda tell: read_lines(list_file, tell), list_sha256)
        yield index


@contextlib.contextmanager
def _locked(file: Path) -> Generator[None]:
    with file.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{file.parent} is being written by another process; wait for it, or end it"
            ) from error
        yield


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); give a list") from error
