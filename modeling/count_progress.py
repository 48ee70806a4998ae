"""How far a command is: a bar on a terminal, else a line now and then.

What does *not* live here: what is counted.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 30.0


class CountProgress:
    """Use it as a context manager.

    Args:
        verb: of what is done with each, such as "asked".
        total: None: nobody knows.
        before: done by an earlier call; it counts for no pace.
        vanishes: nothing of the bar stays on the terminal.
    """

    def __init__(
        self, verb: str, total: int | None, before: int = 0, *, vanishes: bool = False
    ) -> None:
        self._console = Console(stderr=True)
        self._verb, self._total, self._before = verb, total, before
        self._started_s = self._said_s = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[verb]}"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=vanishes,
        )
        self._task = self._bar.add_task("", total=total, completed=before, verb=verb)

    def __enter__(self) -> "CountProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, verb: str, total: int | None) -> None:
        """Begin another part of the work, of which nothing is done."""
        self._verb, self._total, self._before = verb, total, 0
        self._started_s = time.monotonic()
        self._bar.reset(self._task, description="", total=total, verb=verb)

    def per_s(self, done: int) -> float:
        """Return the pace of this call."""
        return (done - self._before) / max(time.monotonic() - self._started_s, 1e-9)

    def show(self, done: int, text: str) -> None:
        """Show how many are done, and words beside."""
        self._bar.update(self._task, completed=done, description=text)
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            of = "" if self._total is None else f" of {self._total}"
            self.say(f"{done}{of} {self._verb}  {text}{self._time_left(done)}")

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(f"galen: {message}", soft_wrap=True, markup=False, highlight=False)

    def _time_left(self, done: int) -> str:
        pace = self.per_s(done)
        if self._total is None or not pace:
            return ""
        return f"  {(self._total - done) / pace / 60:.0f} min left"
