"""A bar on stderr for a stream of records: how many, and how many in a second.

Nothing is drawn where stderr is no terminal. What does *not* live here: what a record is.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text


class _RateColumn(ProgressColumn):
    """Records in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


@contextmanager
def record_bar(doing: str) -> Generator[Callable[[], None]]:
    """Give a function to call at each record."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(f"{doing} {{task.completed:,.0f}}"), _RateColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda: progress.advance(task)
