"""Where job workers keep what is not finished, and how they show that they work.

What does *not* live here: finished things (`services.store`).
"""

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

_MOST_WORKERS = 1000


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """A worker's folder.

    Args:
        name: of the worker, with its number; nobody else on this machine has it.
    """

    folder: Path
    name: str

    @property
    def progress_file(self) -> Path:
        """Touched whenever a task begins or goes on."""
        return self.folder / f"{self.name}.progress"

    @property
    def stop_file(self) -> Path:
        """There while the worker is told to end."""
        return self.folder / f"{self.name}.stop"

    @property
    def temporary_folder(self) -> Path:
        """Emptied at each start."""
        return self.folder / f"{self.name}.tmp"

    def make_temporary_folder(self) -> None:
        """Remove what a killed worker has left, and begin anew."""
        shutil.rmtree(self.temporary_folder, ignore_errors=True)
        self.temporary_folder.mkdir(parents=True)

    def journal(self, job_id: str, number: int) -> Path:
        """Results of a shard, as they come."""
        return self.folder / job_id / f"{number}.jsonl"

    def touch(self) -> None:
        """Show that tasks are worked on."""
        self.progress_file.touch()

    def seen_ns(self) -> int:
        """Return when that was last, in no clock's terms: compare it with itself."""
        try:
            return self.progress_file.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def take_place(folder: Path, name: str) -> tuple[WorkPlace, TextIO]:
    """Take the first free number; it is ours until the file that is returned is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MOST_WORKERS):
        place = WorkPlace(folder, f"{name}-{number}")
        lock = (folder / f"{place.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        os.set_inheritable(lock.fileno(), False)  # noqa: FBT003 - its children are not it
        place.stop_file.unlink(missing_ok=True)
        return place, lock
    raise RuntimeError(f"{_MOST_WORKERS} workers in {folder}")
