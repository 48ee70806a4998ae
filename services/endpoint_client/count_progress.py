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
        before: done by an earlier call; it counts for no pace.
    """

    def __init__(self, verb: str, total: int, before: int) -> None:
        self._console = Console(stderr=True)
        self._verb, self._total, self._before = verb, total, before
        self._started_s = self._said_s = time.monotonic()
        self._bar = Progress(
            TextColumn(verb),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=before)

    def __enter__(self) -> "CountProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def per_s(self, done: int) -> float:
        """Return the pace of this call."""
        return (done - self._before) / max(time.monotonic() - self._started_s, 1e-9)

    def show(self, done: int, text: str) -> None:
        """Show how many are done, and words beside."""
        self._bar.update(self._task, completed=done, description=text)
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            left_s = (self._total - done) / max(self.per_s(done), 1e-9)
            self._console.print(
                f"galen: {done} of {self._total} {self._verb}  {text}  {left_s / 60:.0f} min left",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
