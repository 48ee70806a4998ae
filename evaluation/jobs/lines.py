"""The lines of a shard: what is asked for each, and the row that its answer becomes.

A kind of job has a `LineKind`: `batch_kind.py`, `evaluation_kind.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from evaluation.jobs.asking import Answered
from services.protocol.batch_lines import Span
from services.store.models import JobRow


@dataclass(frozen=True, slots=True)
class Line:
    """A request to be made.

    Args:
        number: counted from 0 over the whole input.
        name: `custom_id` or question id; "": the line cannot be read.
        body: of the chat completion; None: it cannot be asked, see `problem`.
        problem: code and message.
        context: what the kind needs again for the row.
    """

    number: int
    name: str
    body: Callable[[], bytes] | None
    problem: tuple[str, str] | None = None
    context: object = None


class LineKind(Protocol):
    """What is particular to a kind of job. Pure."""

    def spans(self, file: BinaryIO, most_lines: int, most_bytes: int) -> list[Span]:
        """Cut an input into shards; raises BatchInputError."""
        ...

    def lines(self, job: JobRow, content: BinaryIO, first: int) -> Iterator[Line]:
        """Read the lines of a shard.

        Args:
            content: the bytes of the shard.
            first: number of its first line.
        """
        ...

    def row(self, job: JobRow, line: Line, answered: Answered) -> Mapping[str, Any]:
        """Return the row of an answer, or of an error."""
        ...
