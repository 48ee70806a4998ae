"""What a user sees while questions are asked: pace, time left, the score so far.

What does *not* live here: asking (`answering.py`), the bar (`modeling.count_progress`).
"""

from collections.abc import Mapping

from evaluation.scoring import headline_value
from evaluation.vqa_items import Item
from modeling.count_progress import CountProgress


class AskingProgress:
    """Use it as a context manager; it is called with each question and its answer.

    Args:
        total: of the questions, `done` of which have answers of an earlier call.
    """

    def __init__(self, total: int, done: int) -> None:
        self._shown = CountProgress("asked", total, done)
        self._done, self._before = done, done
        self._failed = 0
        self._sum = 0.0

    def __enter__(self) -> "AskingProgress":
        self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.__exit__()

    def __call__(self, item: Item, answer: Mapping[str, object] | None) -> None:
        """Note a question and its answer; None: there is none."""
        said = None if answer is None else str(answer["text"])
        self._done += 1
        self._failed += said is None
        self._sum += headline_value(item, said)
        pace = self._shown.per_s(self._done)
        text = f"{pace:.1f} questions/s  {self._sum / (self._done - self._before):.1%} right"
        self._shown.show(self._done, text + _failures(self._failed))


class JobProgress:
    """Use it as a context manager: how far others are with questions.

    Args:
        total: of the questions.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown: CountProgress | None = None

    def __enter__(self) -> "JobProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.__exit__()

    def at(self, completed: int, failed: int) -> None:
        """Show how many have their answers, and how many have none."""
        done = completed + failed
        if self._shown is None:  # its pace begins with what is done already
            self._shown = CountProgress("asked", self._total, done)
            self._shown.__enter__()
        text = f"{self._shown.per_s(done):.1f} questions/s"
        self._shown.show(done, text + _failures(failed))


def _failures(failed: int) -> str:
    return f"  {failed} without an answer" if failed else ""
