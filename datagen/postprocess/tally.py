"""What happened to samples, counted by rule; the list of what was left out; the manifest.

Nothing here quotes a text: a reject has its file, its line and its id, and the input still has the
rest. What does *not* live here: the rules.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import msgspec

from datagen.postprocess.samples import NO_SAMPLE, Item

_MOST_EXAMPLES = 5
_MOST_NAMES = 1000  # of licences; more than that are no licences
_encode = msgspec.json.Encoder().encode


class Reject(msgspec.Struct, omit_defaults=True):
    """A line of the rejects' file.

    Args:
        number: of the line from 1, or of the record where there are no lines.
        turn: its number from 0 where only a turn was left out; -1: turns without a number.
        repeats: the id of the item that stays in its place.
    """

    file: str
    number: int
    reason: str
    id: str | int | None = None
    turn: int | None = None
    repeats: str | int | None = None


@dataclass(slots=True)
class Tally:
    """Counts of one run.

    Args:
        unreadable: by what was wrong with a line.
        rejected: samples by reason.
        turns_dropped: turns by rule.
        changed: turns by what was changed.
    """

    num_records: int = 0
    num_written: int = 0
    num_turns_written: int = 0
    unreadable: Counter[str] = field(default_factory=Counter[str])
    rejected: Counter[str] = field(default_factory=Counter[str])
    turns_dropped: Counter[str] = field(default_factory=Counter[str])
    changed: Counter[str] = field(default_factory=Counter[str])
    licences: Counter[str] = field(default_factory=Counter[str])
    domains: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def has_bad_input(self) -> bool:
        """Whether something was no sample at all."""
        return bool(self.unreadable) or any(name in NO_SAMPLE for name in self.rejected)

    def exemplify(self, rule: str, place: str) -> None:
        """Remember a place where a rule acted, if few are known."""
        places = self.examples.setdefault(rule, [])
        if len(places) < _MOST_EXAMPLES:
            places.append(place)

    def count(self, item: Item, step: Literal[1, -1]) -> None:
        """Count an item that is in the output, or take it back."""
        self.num_written += step
        self.num_turns_written += step * (len(item.conversations) // 2)
        licence = item.licence or "not known"
        if licence not in self.licences and len(self.licences) >= _MOST_NAMES:
            licence = "others"
        self.licences[licence] += step
        domains = [name for name, is_true in (item.domain or {}).items() if is_true]
        for domain in domains or ["none"]:
            self.domains[domain] += step

    def counts(self) -> dict[str, Any]:
        """Return all counts as the manifest has them."""
        return {
            "records": self.num_records,
            "written": self.num_written,
            "turns_written": self.num_turns_written,
            "unreadable": _sorted(self.unreadable),
            "rejected": _sorted(self.rejected),
            "turns_dropped": _sorted(self.turns_dropped),
            "changed": _sorted(self.changed),
            "licences": _sorted(self.licences),
            "domains": _sorted(self.domains),
        }


class RejectFile:
    """Writes rejects and counts them.

    Args:
        file: is written to and stays open.
    """

    def __init__(self, file: BinaryIO, tally: Tally) -> None:
        self._file = file
        self.tally = tally

    def unreadable(self, name: str, number: int, kind: str) -> None:
        """A line that cannot be read."""
        self.tally.unreadable[kind] += 1
        self._write(Reject(name, number, f"unreadable: {kind}"))

    def sample(self, reject: Reject) -> None:
        """A whole sample."""
        self.tally.rejected[reject.reason] += 1
        self._write(reject)

    def turn(self, reject: Reject) -> None:
        """A turn of a sample that goes on without it."""
        self.tally.turns_dropped[reject.reason] += 1
        self._write(reject)

    def _write(self, reject: Reject) -> None:
        turn = "" if reject.turn is None or reject.turn < 0 else f" turn {reject.turn}"
        self.tally.exemplify(reject.reason, f"{reject.file}:{reject.number}{turn}")
        self._file.write(_encode(reject) + b"\n")


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    found = [(name, count) for name, count in counts.items() if count]
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))
