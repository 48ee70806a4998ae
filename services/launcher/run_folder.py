"""A private temporary folder for one run of `galen up`, which is never left behind for long.

It is removed when the run ends. A launcher that was killed by SIGKILL cannot do that: its children
die with it, and the folder (a socket and a drawing, nothing of a user) is removed by the next
`galen up` of the same user. Who still lives is told by a lock on the folder, which the kernel drops
with its owner; process ids come again, locks do not.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from services.launcher.terminal import CommandError

PREFIX = "galen-up-"
_UNLOCKED_PREFIX = "galen-new-"
_MOST_SOCKET_PATH_BYTES = 100  # of 108 in sockaddr_un (unix(7))


@contextmanager
def run_folder() -> Generator[Path, None, None]:
    """Yield a new folder of mode 0700, and remove it at the end."""
    parent = Path(tempfile.gettempdir())
    remove_abandoned_folders(parent)
    # It gets the name that others look at only once it is locked.
    unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
    folder = parent / (PREFIX + unlocked.name.removeprefix(_UNLOCKED_PREFIX))
    lock = _lock(unlocked)
    unlocked.rename(folder)
    try:
        if len(os.fsencode(folder)) > _MOST_SOCKET_PATH_BYTES - len("/redis.sock"):
            raise CommandError(
                f"the path of the temporary folder {parent} is too long for a socket; "
                "set TMPDIR to a shorter one"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned_folders(parent: Path) -> None:
    """Remove the folders in `parent` of this user's launchers that are no more."""
    for folder in _own_folders(parent):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def living_folders(parent: Path) -> list[Path]:
    """Return the folders in `parent` of this user's launchers that run."""
    living: list[Path] = []
    for folder in _own_folders(parent):
        lock = _lock(folder)
        if lock is None:
            living.append(folder)
        else:
            os.close(lock)
    return sorted(living)


def _own_folders(parent: Path) -> list[Path]:
    found = [f for f in parent.glob(f"{PREFIX}*") if f.is_dir() and not f.is_symlink()]
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
