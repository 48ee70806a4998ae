"""Rates and quantiles from the gateway's figures at different moments. Pure.

Nothing is stored but the last minutes, in memory, and only while somebody looks.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from services.ui.model_figures import Figures

KEPT_S = 600.0
WINDOW_S = 60.0
_SHORTEST_STEP_S, _LONGEST_STEP_S = 1.0, 15.0
"""What lies closer is noise; between readings further apart nobody looked, and their mean says
little of any moment."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The figures of all models at a moment, in seconds of a clock that only goes on."""

    at_s: float
    models: Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class ModelRate:
    """What a model did of late.

    Args:
        finished: answers that ended well.
        first_tokens: answers whose first token came.
        ttft_p50_s, ttft_p95_s: until the first token; None: there was none; infinite: above the
            highest bucket.
    """

    model: str
    generated_per_s: float
    prompt_per_s: float
    finished: int
    first_tokens: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """Generated tokens per second of all models, so many seconds ago.

    Args:
        is_joined: whether the time since the point before was watched.
    """

    ago_s: float
    tokens_per_s: float
    is_joined: bool


class History:
    """The readings of the last ten minutes."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """Add the newest; what a gateway counted before its last start is forgotten."""
        if self._readings:
            if _was_started_between(self._readings[-1], reading):
                self._readings.clear()
            elif reading.at_s - self._readings[-1].at_s < _SHORTEST_STEP_S:
                return
        self._readings.append(reading)
        while reading.at_s - self._readings[0].at_s > KEPT_S:
            self._readings.popleft()

    def covered_s(self) -> float:
        """Return over how long `rates` looks back, a minute at most; 0: not known yet."""
        return self._readings[-1].at_s - self._base().at_s if self._readings else 0.0

    def rates(self) -> list[ModelRate]:
        """Return what each model did of late; [] before the second reading."""
        passed_s = self.covered_s()
        if passed_s <= 0:
            return []
        base, last = self._base(), self._readings[-1]
        return [
            _rate(model, base.models.get(model, Figures()), figures, passed_s)
            for model, figures in sorted(last.models.items())
        ]

    def points(self) -> list[Point]:
        """Return how fast tokens came, from each reading to the next, the oldest first."""
        found: list[Point] = []
        readings = list(self._readings)
        for before, after in pairwise(readings):
            step_s = after.at_s - before.at_s
            made = _generated(after) - _generated(before)
            ago_s = readings[-1].at_s - after.at_s
            found.append(Point(ago_s, made / step_s, step_s <= _LONGEST_STEP_S))
        return found

    def _base(self) -> Reading:
        """Return the oldest reading of the last minute."""
        last_s = self._readings[-1].at_s
        return next(each for each in self._readings if last_s - each.at_s <= WINDOW_S)


def quantile_s(share: float, bounds: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram; None: it is empty.

    Within its bucket values are taken to lie evenly, and the lowest bucket to begin at 0, as
    Prometheus's histogram_quantile has it (prometheus.io/docs, "Query functions"). Above the
    highest finite bound it is infinite here, where Prometheus gives that bound.

    Args:
        bounds: how many values are at most so large, by that bound.
    """
    ordered = sorted(bounds.items())
    total = ordered[-1][1] if ordered else 0.0
    if total <= 0:
        return None
    rank = share * total
    lower_s, below = 0.0, 0.0
    for upper_s, count in ordered:
        if count >= rank and count > below:
            if math.isinf(upper_s):
                return math.inf
            return lower_s + (upper_s - lower_s) * (rank - below) / (count - below)
        lower_s, below = upper_s, count
    return math.inf


def _rate(model: str, before: Figures, after: Figures, passed_s: float) -> ModelRate:
    waits = {bound: count - before.ttft.get(bound, 0.0) for bound, count in after.ttft.items()}
    return ModelRate(
        model,
        (after.completion_tokens - before.completion_tokens) / passed_s,
        (after.prompt_tokens - before.prompt_tokens) / passed_s,
        round(after.finished - before.finished),
        round(waits.get(math.inf, 0.0)),
        quantile_s(0.5, waits),
        quantile_s(0.95, waits),
    )


def _generated(reading: Reading) -> float:
    return sum(figures.completion_tokens for figures in reading.models.values())


def _was_started_between(before: Reading, after: Reading) -> bool:
    return any(
        after.models.get(model, Figures()).begins_after(figures)
        for model, figures in before.models.items()
    )
