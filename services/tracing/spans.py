"""What the services need of tracing: spans, and those that are nothing where it is off.

A span says what was done, for how long and how it ended, by names, numbers and public ids: never
text of a prompt or an answer, never a key, never what an exception says. What does *not* live here:
OpenTelemetry (`otel.py`), which is imported only where it is wanted (`opening.py`).
"""

from collections.abc import Mapping
from typing import Literal, Protocol

Attributes = Mapping[str, str | int | float | bool]
SpanKind = Literal["internal", "server", "producer", "consumer"]

_NOTHING: Attributes = {}


class Span(Protocol):
    """Something that takes time; `with` ends it, with the error that leaves the block."""

    @property
    def traceparent(self) -> str:
        """W3C context of what is done on its behalf elsewhere; empty: it is not traced."""
        ...

    @property
    def trace_id(self) -> str:
        """For logs; empty: it is not traced."""
        ...

    def child(
        self, name: str, attributes: Attributes = _NOTHING, *, kind: SpanKind = "internal"
    ) -> "Span":
        """Begin a part of it."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Add what became known."""
        ...

    def event(self, name: str) -> None:
        """Something happens now."""
        ...

    def end(self, error: str = "") -> None:
        """It is over; a second end counts for nothing.

        Args:
            error: a code; empty: it went well.
        """
        ...

    def __enter__(self) -> "Span": ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None: ...


class Tracing(Protocol):
    """Where spans begin; one per process."""

    @property
    def is_on(self) -> bool:
        """Whether spans are anything."""
        ...

    def begin(
        self,
        name: str,
        parent: str,
        attributes: Attributes = _NOTHING,
        *,
        kind: SpanKind = "internal",
        since_s: float = 0.0,
    ) -> Span:
        """Begin a span.

        Args:
            parent: a W3C `traceparent`; one that cannot be read, or none, begins a trace.
            since_s: how long ago it began.
        """
        ...

    def close(self) -> None:
        """Send what is left; blocks for a moment."""
        ...


class _NoSpan:
    """Of a request that nobody traces."""

    __slots__ = ()

    traceparent = trace_id = ""

    def child(
        self, name: str, attributes: Attributes = _NOTHING, *, kind: SpanKind = "internal"
    ) -> Span:
        del name, attributes, kind
        return self

    def note(self, attributes: Attributes) -> None:
        pass

    def event(self, name: str) -> None:
        pass

    def end(self, error: str = "") -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        pass


NO_SPAN: Span = _NoSpan()


class NoTracing:
    """Tracing is off."""

    is_on = False

    def begin(
        self,
        name: str,
        parent: str,
        attributes: Attributes = _NOTHING,
        *,
        kind: SpanKind = "internal",
        since_s: float = 0.0,
    ) -> Span:
        """See Tracing."""
        del name, parent, attributes, kind, since_s
        return NO_SPAN

    def close(self) -> None:
        """See Tracing."""


def logged(span: Span) -> dict[str, str]:
    """Return the field of a log line that leads to the trace; none where there is no trace."""
    return {"trace_id": span.trace_id} if span.trace_id else {}
