"""What is wrong with records: counted, listed in a file, and the reason to stop above a share.

A problem is named by its place and a reason; no word of a conversation is ever written. What does
*not* live here: finding problems (`audit.py`, and the loader of images).
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from training.config import ProblemLimits
from training.errors import TrainingError
from training.records import Records

ProblemKind = Literal[
    "malformed", "missing_images", "without_loss", "truncated", "dropped_leading_answers"
]
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)
_UNLIMITED: ProblemKind = "dropped_leading_answers"  # as LLaVA-Med v1.0's training did in silence
_WORDS: dict[ProblemKind, tuple[str, str]] = {
    "malformed": ("are malformed", "correct them"),
    "missing_images": ("lack an image that can be read", "fetch the images"),
    "without_loss": ("have no answer to learn from", "take them out"),
    "truncated": ("are longer than data.max_length", "raise data.max_length"),
}
"""By kind: what is wrong with such records, and what to do."""

Problem = tuple[ProblemKind, int, str]
"""Kind, index of the record over all files, reason."""


class Problems:
    """The list of a run's problems.

    Args:
        path: of the list, JSON Lines.
        limits: shares of all records above which `check_share` stops.
    """

    def __init__(self, path: Path, records: Records, limits: ProblemLimits) -> None:
        self.path = path
        self.counts: Counter[ProblemKind] = Counter()
        self._records = records
        self._limits = limits
        self._first: dict[ProblemKind, tuple[int, str]] = {}

    def begin(self, problems: Iterable[Problem]) -> None:
        """Count several and write the list anew, whole: several ranks may do so at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=self.path.parent, suffix=".partial", delete=False
        ) as file:
            file.writelines(self._counted(problem) for problem in problems)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(self.path)

    def add(self, kind: ProblemKind, record: int, reason: str) -> None:
        """Count and list one more; `record` is its index over all files."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._counted((kind, record, reason)))

    def count_elsewhere(self, kind: ProblemKind, number: int) -> None:
        """Count what other cards found; they list it."""
        self.counts[kind] += number

    def check_share(self, kind: ProblemKind, num_examples: int) -> None:
        """Stop where more records have a problem than is allowed.

        Raises:
            TrainingError: names the first such record, the share and the list.
        """
        count = self.counts[kind]
        if kind == _UNLIMITED or not count:
            return
        limit = getattr(self._limits, kind)
        if count <= limit * num_examples:
            return
        place = self.first([kind]) or "on another card"
        wrong, advice = _WORDS[kind]
        raise TrainingError(
            f"{count} of {num_examples} records ({count / num_examples:.3g}) {wrong}, "
            f"data.limits.{kind} allows {limit:g}; the first is {place}; "
            f"all are listed in {self.path}: {advice}, or raise the limit"
        )

    def check_shares(self, num_examples: int) -> None:
        """Stop where any kind of problem has more than its share.

        Raises:
            TrainingError: as `check_share` says.
        """
        for kind in PROBLEM_KINDS:
            self.check_share(kind, num_examples)

    def first(self, kinds: Sequence[ProblemKind] = PROBLEM_KINDS) -> str:
        """Return place and reason of the first one of these kinds; empty where there is none."""
        found = next((self._first[kind] for kind in kinds if kind in self._first), None)
        return "" if found is None else f"{self._records.where(found[0])}: {found[1]}"

    def summary(self) -> str:
        """Return the counts in one line."""
        said = [f"{self.counts[kind]} {kind}" for kind in PROBLEM_KINDS if self.counts[kind]]
        if not said:
            return "no record has a problem"
        return f"of {len(self._records)} records: {', '.join(said)}; listed in {self.path}"

    def _counted(self, problem: Problem) -> str:
        """Count a problem; returns its line of the list."""
        kind, record, reason = problem
        self.counts[kind] += 1
        self._first.setdefault(kind, (record, reason))
        file, number = self._records.place(record)
        line = file.line(number)
        more = {} if line is None else {"line": line}
        row = {"kind": kind, "file": str(file.path), "record": number, **more, "reason": reason}
        return json.dumps(row) + "\n"
