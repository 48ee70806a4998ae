"""Which errors there were of late, by cause and model: counts and times, nothing of any request."""

import time
from dataclasses import dataclass

_MOST_CAUSES = 256
"""Pairs of a code and a model; the one that was quiet for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """One cause.

    Args:
        model: as the directory has it, never what a client typed; "": not known.
        last: seconds of the calendar.
    """

    code: str
    model: str
    status: int
    count: int
    last: float


class RecentErrors:
    """The errors of this process since its start."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], ErrorCount] = {}

    def add(self, code: str, model: str, status: int) -> None:
        """Count an error that happened now."""
        cause = (code, model)
        before = self._counts.pop(cause, None)
        count = 1 + (before.count if before is not None else 0)
        if len(self._counts) >= _MOST_CAUSES:
            del self._counts[next(iter(self._counts))]
        self._counts[cause] = ErrorCount(code, model, status, count, _now())

    def latest(self) -> list[ErrorCount]:
        """Return all causes, the latest first."""
        return list(reversed(self._counts.values()))


def _now() -> float:
    return time.time()  # noqa: TID251 - a date for operators, no duration
