"""What a user sees while samples are post-processed: how many, how fast, the time left.

A bar on a terminal, else a line now and then. What does *not* live here: the table at the end
(`command.py`).
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 30.0


class ProgressBar:
    """Use it as a context manager; it is a `Watch` of `running.py`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, pace="")
        self._name, self._total, self._done = "", 0, 0
        self._began_s = self._said_s = time.monotonic()

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str, total: int | None) -> None:
        """Begin a part of the work; None: nobody knows how long it is."""
        self._name, self._total, self._done = name, total or 0, 0
        self._began_s = time.monotonic()
        self._bar.reset(self._task, description=name, total=total, pace="")

    def advance(self, count: int = 1) -> None:
        """Show that more is done."""
        self._done += count
        now_s = time.monotonic()
        pace = self._done / max(now_s - self._began_s, 1e-9)
        self._bar.update(self._task, completed=self._done, pace=f"{pace:,.0f}/s")
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            left = ""
            if self._total > self._done:
                left = f", {(self._total - self._done) / pace / 60:.0f} min left"
            of = f" of {self._total:,}" if self._total else ""
            line = f"galen: {self._name}: {self._done:,}{of}, {pace:,.0f}/s{left}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
