"""A private temporary folder for one run of a program, which is never left behind for long.

It is removed when the run ends. A program that was killed by SIGKILL cannot do that: its folder is
removed by the next run of the same kind, of the same user. Who still lives is told by a lock on the
folder, which the kernel drops with its owner; process ids come again, locks do not.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_UNLOCKED_PREFIX = "galen-new-"


@contextmanager
def private_folder(prefix: str, parent: Path | None = None) -> Generator[Path, None, None]:
    """Yield a new folder of mode 0700, and remove it at the end.

    Args:
        prefix: of its name; folders of the same one that nobody has any more are removed.
        parent: None: the system's folder for temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned_folders(parent, prefix)
    # It gets the name that others look at only once it is locked.
    unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
    folder = parent / (prefix + unlocked.name.removeprefix(_UNLOCKED_PREFIX))
    lock = _lock(unlocked)
    unlocked.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned_folders(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` of this user's programs that are no more."""
    for folder in _own_folders(parent, prefix):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def living_folders(parent: Path, prefix: str) -> list[Path]:
    """Return the folders in `parent` of this user's programs that run."""
    living: list[Path] = []
    for folder in _own_folders(parent, prefix):
        lock = _lock(folder)
        if lock is None:
            living.append(folder)
        else:
            os.close(lock)
    return sorted(living)


def _own_folders(parent: Path, prefix: str) -> list[Path]:
    found = [f for f in parent.glob(f"{prefix}*") if f.is_dir() and not f.is_symlink()]
    return [folder for folder in found if folder.stat().st_uid == os.getuid()]


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, or None where another process does."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
