"""A progress bar for conversions: to a terminal as a bar, elsewhere one line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_EVERY_S = 30.0


class ProgressBar:
    """Shows bytes of a known total on standard error; use it as a context manager."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._done = 0
        self._said_s = time.monotonic()
        console = Console(stderr=True)
        self._is_terminal = console.is_terminal
        self._bar = Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_bytes)

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, num_bytes: int, name: str) -> None:
        """Note that so many bytes more are done."""
        self._done += num_bytes
        if self._is_terminal:
            self._bar.update(self._task, advance=num_bytes)
        elif time.monotonic() - self._said_s > _LINE_EVERY_S:
            self._said_s = time.monotonic()
            done, total = self._done / 1e9, self._total / 1e9
            print(f"galen: {done:.1f} of {total:.1f} GB, {name}", file=sys.stderr)
