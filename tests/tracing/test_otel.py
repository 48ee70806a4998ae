"""Spans of OpenTelemetry: whose child, whether recorded, and how they end."""

from collections.abc import Iterator

import pytest

from services.tracing.otel import OtelTracing
from services.tracing.spans import Span, logged
from tests.support.otlp_receiver import OtlpReceiver

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def begin(tracing: OtelTracing, parent: str) -> Span:
    return tracing.begin("request", parent)


def test_span_continues_the_trace_of_its_caller(collector: OtlpReceiver) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=0.0)
    span = begin(tracing, f"00-{TRACE}-{CALLER}-01")
    child = span.child("part", {"galen.attempt": 2})
    context = child.traceparent
    child.end()
    span.end()
    tracing.close()

    part, request = sorted(collector.trace(TRACE), key=lambda each: each.name)
    assert request.parent_id == CALLER
    assert part.parent_id == request.span_id
    assert context == f"00-{TRACE}-{part.span_id}-01"
    assert part.attributes == {"galen.attempt": 2}
    assert logged(span) == {"trace_id": TRACE}


@pytest.mark.parametrize(
    "parent",
    ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01", "\ufffd" * 55],
)
def test_context_that_cannot_be_read_begins_a_trace(collector: OtlpReceiver, parent: str) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=1.0)
    begin(tracing, parent).end()
    tracing.close()

    (span,) = collector.spans
    assert span.parent_id == ""
    assert span.trace_id not in {TRACE, "0" * 32}


def test_trace_that_its_caller_does_not_record_is_not_sent_but_its_context_goes_on(
    collector: OtlpReceiver,
) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=1.0)
    span = begin(tracing, f"00-{TRACE}-{CALLER}-00")
    context = span.child("part").traceparent
    span.end()
    tracing.close()

    assert collector.spans == []
    assert context.startswith(f"00-{TRACE}-")
    assert context.endswith("-00")


def test_share_of_nothing_records_nothing_that_begins_here(collector: OtlpReceiver) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=0.0)
    for _ in range(20):
        begin(tracing, "").end()
    tracing.close()

    assert collector.spans == []


def test_error_that_leaves_a_block_is_named_and_never_quoted(collector: OtlpReceiver) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=1.0)
    with pytest.raises(ValueError, match="of a patient"), begin(tracing, ""):
        raise ValueError("of a patient")
    tracing.close()

    (span,) = collector.spans
    assert span.is_error
    assert span.attributes == {"error.type": "ValueError"}
    assert b"of a patient" not in b"".join(collector.bodies)


def test_second_end_counts_for_nothing(collector: OtlpReceiver) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=1.0)
    span = begin(tracing, "")
    span.end()
    span.end("cancelled")
    tracing.close()

    (sent,) = collector.spans
    assert not sent.is_error


def test_span_that_began_earlier_says_so(collector: OtlpReceiver) -> None:
    tracing = OtelTracing(collector.url, "galen-test", share=1.0)
    tracing.begin("queue wait", "", kind="consumer", since_s=2.5).end()
    tracing.close()

    (span,) = collector.spans
    assert span.end_ns - span.start_ns == pytest.approx(2.5e9, rel=0.01)
