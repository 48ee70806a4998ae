"""Medians and ratios over the rounds of a benchmark; pure."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.rounds import Measurement

Figure = Callable[[Measurement], float | None]


class Results:
    """What was measured, by scenario and party."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._by_key: dict[tuple[str, str], list[Measurement]] = {}
        for measurement in measurements:
            key = (measurement.scenario, measurement.party)
            self._by_key.setdefault(key, []).append(measurement)

    def all(self, scenario: str, party: str) -> Sequence[Measurement]:
        """Return the measurements of `party` under `scenario`, by round."""
        return self._by_key.get((scenario, party), [])

    def of_party(self, party: str) -> list[Measurement]:
        """Return all measurements of `party`."""
        return [each for key, found in self._by_key.items() if key[1] == party for each in found]

    def parties(self, scenario: str) -> list[str]:
        """Return who ran `scenario`, in the order of their first turn."""
        return [party for name, party in self._by_key if name == scenario]

    def figures(self, scenario: str, party: str, figure: Figure) -> list[float]:
        """Return `figure` of every round that has one (loadgen's -1 is none)."""
        found = (figure(each) for each in self.all(scenario, party))
        return [value for value in found if value is not None and value >= 0]

    def median(self, scenario: str, party: str, figure: Figure) -> float | None:
        """Return the median of `figure` over the rounds."""
        values = self.figures(scenario, party, figure)
        return statistics.median(values) if values else None

    def ratios(self, scenario: str, party: str, other: str, figure: Figure) -> list[float]:
        """Return `figure` of `party` over that of `other`, for each round that has both."""
        others = {each.round_index: figure(each) for each in self.all(scenario, other)}
        ratios: list[float] = []
        for each in self.all(scenario, party):
            value, base = figure(each), others.get(each.round_index)
            if value is not None and base:
                ratios.append(value / base)
        return ratios

    def ratio(self, scenario: str, party: str, other: str, figure: Figure) -> float | None:
        """Return the median of `ratios`: neighbours in time are compared, then the rounds."""
        ratios = self.ratios(scenario, party, other, figure)
        return statistics.median(ratios) if ratios else None
