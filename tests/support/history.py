"""What clients saw, and whether a correct service could have shown it: a Jepsen-like checker.

A client writes down everything that reaches it, with times (`Record`). `check` looks at the
finished records alone, knows nothing of the service, and names every violation. The fake engine's
answer is `zq0000 zq0001 …`, so the text itself proves that no token was lost, repeated, moved or
mixed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(r"zq(\d{4}) ")


@dataclass(slots=True)
class Event:
    """One thing that a client saw.

    Args:
        kind: `headers`, `text` (of one chunk), `finish` (its reason), `error` (its code), `done`,
            `answer` (a whole body's text), `refused` (an HTTP error's code), `eof`.
        chunk_id: the `id` of the chunk, "" where there is none.
    """

    at: float
    kind: str
    value: str = ""
    chunk_id: str = ""


@dataclass(slots=True)
class Record:
    """The history of one request.

    Args:
        expected_tokens: length of the only right answer.
        left: when the client went away on purpose; its request owes it nothing more.
    """

    label: str
    stream: bool
    expected_tokens: int
    invoked: float
    request_id: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    left: float | None = None
    num_tokens: int = 0
    body: str = ""

    def add(self, at: float, kind: str, value: str = "", chunk_id: str = "") -> None:
        """Write down what was seen."""
        self.events.append(Event(at, kind, value, chunk_id))
        if kind in {"text", "answer"}:
            self.num_tokens += len(_TOKEN.findall(value))

    @property
    def terminal(self) -> Event | None:
        """What ended the request, as its client saw it."""
        return next((e for e in self.events if e.kind in _TERMINALS), None)

    @property
    def is_complete(self) -> bool:
        """Whether it ended well."""
        return any(e.kind in {"finish", "answer"} for e in self.events)

    @property
    def error_code(self) -> str:
        """The code of the error that ended it, or ""."""
        return next((e.value for e in self.events if e.kind in {"error", "refused"}), "")


_TERMINALS = frozenset({"finish", "error", "answer", "refused"})


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a correct service never shows."""

    kind: str
    label: str
    detail: str


def check(records: Iterable[Record]) -> list[Violation]:
    """Return every violation in finished histories; kinds:

    `lost` (no terminal), `two_terminals`, `no_done` and `after_end` (a stream's end is malformed),
    `gap`, `repeat`, `reorder` (numbers of tokens), `mixed` (text or chunks of something else),
    `short` and `long` (ended well with another length).
    """
    return [violation for record in records for violation in _check_one(record)]


def kinds(violations: Iterable[Violation]) -> set[str]:
    """Return the kinds of violations."""
    return {violation.kind for violation in violations}


def describe(violations: Sequence[Violation], most: int = 10) -> str:
    """Return a readable list of the first violations, after a count by kind."""
    counts = dict(Counter(violation.kind for violation in violations))
    lines = [f"{v.label}: {v.kind}: {v.detail}" for v in violations[:most]]
    return "\n".join([f"{len(violations)} violations {counts}", *lines])


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long after a fault the requests that were open then heard of the service again.

    Args:
        num_open: requests that were under way at the fault.
        next_token_s: worst time to the next token or the end, over streams.
        terminal_s: worst time to the end.
        num_errors: of them ended with an error.
    """

    num_open: int
    next_token_s: float
    terminal_s: float
    num_errors: int


def recovery(records: Iterable[Record], fault_at: float) -> Recovery:
    """Measure the requests that were under way at `fault_at` and whose clients stayed."""
    worst_next = worst_end = 0.0
    num_open = num_errors = 0
    for record in records:
        end = record.terminal
        if record.left is not None or record.invoked > fault_at or end is None or end.at < fault_at:
            continue
        num_open += 1
        num_errors += end.kind in {"error", "refused"}
        worst_end = max(worst_end, end.at - fault_at)
        if record.stream:
            heard = next(
                e.at for e in record.events
                if e.at >= fault_at and (e.kind in _TERMINALS or (e.kind == "text" and e.value))
            )  # fmt: skip
            worst_next = max(worst_next, heard - fault_at)
    return Recovery(num_open, worst_next, worst_end, num_errors)


def _check_one(record: Record) -> list[Violation]:
    found: list[tuple[str, str]] = []
    terminals = [event for event in record.events if event.kind in _TERMINALS]
    if not terminals and record.left is None:
        seen = [event.kind for event in record.events][-3:]
        found.append(("lost", f"no terminal; {record.num_tokens} tokens; last {seen}"))
    if len(terminals) > 1:
        found.append(("two_terminals", " ".join(f"{e.kind}={e.value[:20]}" for e in terminals)))
    found += _check_end(record, terminals)
    found += _check_text(record)
    return [Violation(kind, record.label, detail) for kind, detail in found]


def _check_end(record: Record, terminals: Sequence[Event]) -> list[tuple[str, str]]:
    """A stream ends with its terminal and then [DONE], and nothing stands behind either."""
    found: list[tuple[str, str]] = []
    dones = [event for event in record.events if event.kind == "done"]
    is_streamed = bool(terminals) and terminals[0].kind in {"finish", "error"}
    if is_streamed and len(dones) != 1 and record.left is None:
        found.append(("no_done", f"{len(dones)} [DONE]"))
    if dones and not terminals:
        found.append(("no_done", "[DONE] without a finish_reason or an error"))
    ended = False
    for event in record.events:
        if ended and event.kind in {"text", "answer", "headers"}:
            found.append(("after_end", f"{event.kind} {event.value[:20]!r}"))
        ended = ended or event.kind in _TERMINALS or event.kind == "done"
    return found


def _check_text(record: Record) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    ids = {event.chunk_id for event in record.events if event.chunk_id}
    if len(ids) > 1:
        found.append(("mixed", f"chunks of {sorted(ids)}"))
    texts = [event.value for event in record.events if event.kind in {"text", "answer"}]
    rest = _TOKEN.sub("", "".join(texts))
    if rest:
        found.append(("mixed", f"text that is no token: {rest[:40]!r}"))
    numbers = [int(number) for number in _TOKEN.findall("".join(texts))]
    found += _check_order(numbers)
    if record.is_complete and not found and len(numbers) != record.expected_tokens:
        kind = "short" if len(numbers) < record.expected_tokens else "long"
        found.append((kind, f"{len(numbers)} of {record.expected_tokens} tokens"))
    return found


def _check_order(numbers: Sequence[int]) -> list[tuple[str, str]]:
    """Name the first token that is not the next one."""
    seen: set[int] = set()
    for place, number in enumerate(numbers):
        if number != place:
            if number in seen:
                return [("repeat", f"token {number} again at place {place}")]
            if number in numbers[:place] or place in numbers[place:]:
                return [("reorder", f"token {number} at place {place}")]
            return [("gap", f"token {number} at place {place}")]
        seen.add(number)
    return []
