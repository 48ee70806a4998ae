"""Which figures are asked about, in which order: each once, the domains in turn.

Memory holds the ids of what is chosen; the figures lie in a file without a name beside the output,
which is gone when this ends, however it ends. What does *not* live here: asking (`asking.py`).
"""

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from datagen.errors import DataError
from datagen.figures import DOMAINS, Figure, figure_of
from datagen.records import Found, Problem, Record, read_records

_NO_DOMAIN = "none"
_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Sample:
    """A figure, and the record that it came from."""

    figure: Figure
    record: Record

    @property
    def id(self) -> str:
        """Of its record."""
        return self.figure.pair_id


@dataclass(slots=True)
class Readings:
    """What reading the input came to.

    Args:
        problems: by kind, all of them.
        listed: the first ones, with their numbers.
    """

    figures: int = 0
    duplicates: int = 0
    problems: Counter[str] = field(default_factory=Counter[str])
    listed: list[Problem] = field(default_factory=list[Problem])

    def tell(self, problem: Problem) -> None:
        """Count a record that cannot be read."""
        self.problems[problem.kind] += 1
        if len(self.listed) < _MOST_LISTED:
            self.listed.append(problem)


class Selection:
    """The chosen figures; use it as a context manager.

    Args:
        beside: a folder in which the figures may lie while they are needed.
        domains: a figure must be of one of them; none: all figures.
        most: so many figures, where there are as many; None: all.
    """

    def __init__(
        self, source: Path, beside: Path, domains: Sequence[str] = (), most: int | None = None
    ) -> None:
        self._source, self._domains, self._most = source, frozenset(domains), most
        self._beside = beside
        self._file: BinaryIO | None = None
        self._places: array[int] = array("Q")
        self.ids: list[str] = []
        """Of what is chosen, in the order in which it is asked."""
        self._numbers: dict[str, int] = {}
        self.readings = Readings()

    def __enter__(self) -> Self:
        """Read the input; raises DataError where it cannot be read at all."""
        self._file = tempfile.TemporaryFile(dir=self._beside)
        queues: dict[str, list[tuple[str, int]]] = {name: [] for name in (*DOMAINS, _NO_DOMAIN)}
        seen: set[str] = set()
        for found in read_records(self._source, self.readings.tell):
            if (figure := self._figure(found)) is None:
                continue
            if figure.pair_id in seen:
                self.readings.duplicates += 1
                continue
            seen.add(figure.pair_id)
            if self._domains and not self._domains.intersection(figure.domains):
                continue
            place = self._file.tell()
            line = json.dumps([found.group, found.record])
            self._file.write(line.encode() + b"\n")
            queues[self._queue_of(figure)].append((figure.pair_id, place))
        self.readings.figures = len(seen)
        in_turn = chain.from_iterable(zip_longest(*queues.values()))
        chosen = [each for each in in_turn if each is not None][: self._most]
        self.ids = [name for name, _ in chosen]
        self._places = array("Q", (place for _, place in chosen))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def samples(self) -> Iterator[Sample]:
        """Yield what is chosen, each read when it is its turn."""
        for number in range(len(self.ids)):
            yield self.at(number)

    def place_of(self, pair_id: str) -> int | None:
        """Return the place of a figure in `ids`; None: it was not chosen."""
        if not self._numbers:
            self._numbers = {name: number for number, name in enumerate(self.ids)}
        return self._numbers.get(pair_id)

    def at(self, number: int) -> Sample:
        """Return one, by its place in `ids`."""
        assert self._file is not None  # noqa: S101 (entered)
        self._file.seek(self._places[number])
        group, record = json.loads(self._file.readline())
        return Sample(figure_of(record, group), record)

    def _figure(self, found: Found) -> Figure | None:
        try:
            return figure_of(found.record, found.group)
        except DataError as error:
            self.readings.tell(Problem(found.number, str(error)))
            return None

    def _queue_of(self, figure: Figure) -> str:
        """Return the domain for which a figure counts: of several, the first that is wanted."""
        wanted = [name for name in figure.domains if not self._domains or name in self._domains]
        return wanted[0] if wanted else _NO_DOMAIN
