"""The files of one run: conversations, failures, and what decides them.

`FILE` holds a line per conversation, `FILE.failures.jsonl` a line per try that gave none,
`FILE.run.json` what decides both: a run is gone on with only by the same. Each line is on the disk
before it counts. What does *not* live here: what is asked (`asking.py`).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from datagen.errors import DataError
from modeling.durable_files import write_json
from services.endpoint_client.identity import differences
from services.endpoint_client.record_file import RecordFile


class OtherRunError(DataError):
    """The output holds a run of another input, model, wording or decoding."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where a run lies; all names come from the output's."""

    out: Path

    def beside(self, ending: str) -> Path:
        """Return a file of the run beside its output."""
        return self.out.with_name(f"{self.out.name}.{ending}")

    @property
    def run(self) -> Path:
        """What decides the conversations."""
        return self.beside("run.json")

    @property
    def failures(self) -> Path:
        """Tries that gave no conversation."""
        return self.beside("failures.jsonl")

    @property
    def batches(self) -> Path:
        """What is under way at `/v1/batches` (`under_way.py`)."""
        return self.beside("batches.json")

    @property
    def report(self) -> Path:
        """What it came to."""
        return self.beside("report.json")

    def open(self, identity: Mapping[str, Any], *, is_new: bool) -> None:
        """Begin a run, or find it.

        Args:
            is_new: what is there of a run is removed.

        Raises:
            OtherRunError: another one is there, or a file that no run wrote.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if is_new and self.batches.exists():
            raise OtherRunError(
                f"{self.batches} names batches that may be paid for; collect them first (the same "
                "command with --batch, without --new-run), or take another --out"
            )
        if is_new and self.run.is_file():
            # The name of what makes it a run goes last: a kill in between leaves a run.
            for path in (self.out, self.failures, self.report, self.run):
                path.unlink(missing_ok=True)
        self.check(identity)
        if not self.run.is_file() or self._is_empty:
            write_json(self.run, identity)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise OtherRunError where another run is there; no model's name fits any model."""
        if not self.run.is_file():
            if self.out.exists():
                raise OtherRunError(f"{self.out} is there and is no run; take another --out")
            return
        if self._is_empty:
            return
        before = self._identity()
        if not identity["model"]:
            before = {**before, "model": identity["model"]}
        if changed := differences(before, identity):
            raise OtherRunError(
                f"{self.out} holds another run: {'; '.join(changed)}; take another --out, or begin "
                "anew with --new-run, which removes its conversations"
            )

    @property
    def _is_empty(self) -> bool:
        """Whether nothing was made, tried or paid: a call that failed at once leaves such a run."""
        made = (self.out, self.failures, self.batches)
        return not any(path.exists() and path.stat().st_size for path in made)

    def _identity(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self.run.read_text("utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise OtherRunError(f"{self.run} is damaged; take another --out")
        return cast("Mapping[str, Any]", found)


@dataclass(slots=True)
class Totals:
    """What all calls of a run took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def add(self, record: Mapping[str, object]) -> None:
        """Count a line."""
        told = cast("Mapping[str, Any]", record.get("generation") or {})
        self.prompt_tokens += int(told.get("prompt_tokens", 0))
        self.completion_tokens += int(told.get("completion_tokens", 0))
        self.cost += float(told.get("cost", 0.0))


@dataclass(slots=True)
class Kept:
    """What a run has so far; use it as a context manager. A second process is refused.

    Args:
        tries: by the ids of figures that had a try without a conversation.
        reasons: of the last of them.
        batches: in which the last of them was made, where it was in one.
        num_without: figures that had a try, and have no conversation.
    """

    files: RunFiles
    totals: Totals = field(default_factory=Totals)
    tries: Counter[str] = field(default_factory=Counter[str])
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    batches: dict[str, str] = field(default_factory=dict[str, str])
    num_without: int = field(default=0, init=False)
    _out: RecordFile = field(init=False)
    _failures: RecordFile = field(init=False)

    def __post_init__(self) -> None:
        self._out = RecordFile(self.files.out, "pair_id", visit=self.totals.add)
        self._failures = RecordFile(self.files.failures, "failure_id", visit=self._note)

    def __enter__(self) -> Self:
        """Read what is there; raises RecordFileError where it is damaged."""
        self._out.__enter__()
        try:
            self._failures.__enter__()
        except BaseException:
            self._out.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._failures.__exit__(kind, error, trace)
        self._out.__exit__(kind, error, trace)

    def peek(self) -> None:
        """Read what is there, and change nothing, for a call that only looks."""
        self._out.peek()
        self._failures.peek()

    def __contains__(self, key: str) -> bool:
        return key in self._out

    def add(self, record: Mapping[str, object]) -> None:
        """Keep a conversation; it is on the disk when this returns."""
        if (pair_id := str(record["pair_id"])) not in self:
            self._out.add(record)
            self.totals.add(record)
            self.num_without -= pair_id in self.tries

    def fail(self, pair_id: str, reason: str, cost: float = 0.0, batch_id: str = "") -> None:
        """Keep why a try gave none."""
        failure: dict[str, object] = {
            "failure_id": f"{pair_id}/{self.tries[pair_id] + 1}",
            "pair_id": pair_id,
            "reason": reason,
            **({"batch_id": batch_id} if batch_id else {}),
            "generation": {"cost": cost},
        }
        self._failures.add(failure)
        self._note(failure)

    def _note(self, failure: Mapping[str, object]) -> None:
        pair_id = str(failure["pair_id"])
        self.num_without += pair_id not in self.tries and pair_id not in self
        self.tries[pair_id] += 1
        self.reasons[pair_id] = str(failure["reason"])
        if batch_id := failure.get("batch_id"):
            self.batches[pair_id] = str(batch_id)
        self.totals.add(failure)
