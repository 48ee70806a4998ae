"""What a user sees while questions are asked: pace, time left, the score so far.

A bar on a terminal, else a line now and then. What does *not* live here: asking (`answering.py`).
"""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.scoring import headline_value
from evaluation.vqa_items import Item

_LINE_EVERY_S = 30.0


class AskingProgress:
    """Use it as a context manager; it is called with each question and its answer.

    Args:
        total: of the questions, `done` of which have answers of an earlier call.
    """

    def __init__(self, total: int, done: int) -> None:
        self._console = Console(stderr=True)
        self._total, self._done, self._before = total, done, done
        self._failed = 0
        self._sum = 0.0
        self._started_s = self._said_s = time.monotonic()
        self._bar = _bar_on(self._console)
        self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> "AskingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, item: Item, answer: Mapping[str, object] | None) -> None:
        """Note a question and its answer; None: there is none."""
        said = None if answer is None else str(answer["text"])
        self._done += 1
        self._failed += said is None
        self._sum += headline_value(item, said)
        now_s = time.monotonic()
        pace = (self._done - self._before) / max(now_s - self._started_s, 1e-9)
        text = f"{pace:.1f} questions/s  {self._sum / (self._done - self._before):.1%} right"
        if self._failed:
            text += f"  {self._failed} without an answer"
        self._bar.update(self._task, completed=self._done, description=text)
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            left_s = (self._total - self._done) / pace
            self._console.print(
                f"galen: {self._done} of {self._total} asked  {text}  {left_s / 60:.0f} min left",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )


class JobProgress:
    """Use it as a context manager: how far others are with questions.

    Args:
        total: of the questions.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._began: tuple[float, int] | None = None
        self._said_s = time.monotonic()
        self._bar = _bar_on(self._console)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "JobProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def at(self, completed: int, failed: int) -> None:
        """Show how many have their answers, and how many have none."""
        now_s, done = time.monotonic(), completed + failed
        began_s, before = self._began = self._began or (now_s, done)
        pace = (done - before) / max(now_s - began_s, 1e-9)
        text = f"{pace:.1f} questions/s" + (f"  {failed} without an answer" if failed else "")
        self._bar.update(self._task, completed=done, description=text)
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            line = f"galen: {done} of {self._total} asked  {text}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _bar_on(console: Console) -> Progress:
    return Progress(
        TextColumn("asked"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
