"""The folder beside the output in which a run keeps what it will not keep.

One run at a time: a lock that ends with the process. What a killed run left is replaced.
"""

import fcntl
import shutil
from pathlib import Path
from types import TracebackType

from datagen.errors import DataError

_LOCK = "galen-postprocess.lock"


class WorkFolder:
    """Use it as a context manager; inside, `path` is an empty folder.

    Args:
        out: the output's file.

    Raises:
        DataError: another run has it, or it is somebody else's.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out.with_name(f"{out.name}.work")
        self.path = self._folder / "files"

    def __enter__(self) -> "WorkFolder":
        is_there = self._folder.exists() and any(self._folder.iterdir())
        if is_there and not (self._folder / _LOCK).exists():
            raise DataError(f"{self._folder} is not this tool's; remove it, or change --out")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DataError(f"another run writes with {self._folder}; wait for its end") from error
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()
