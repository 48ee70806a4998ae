"""Spans as OpenTelemetry has them, sent by OTLP over HTTP from a thread of their own.

Nothing here uses OpenTelemetry's context variables: whoever begins a part of something has it at
hand. Nor its recording of exceptions, whose texts may hold anything. `tracestate` and `baggage` of
a client are strangers' text and are not taken over.
"""

import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OpenTelemetrySpan
from opentelemetry.trace import SpanKind as OpenTelemetryKind
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.tracing.spans import Attributes, Span, SpanKind

_KINDS: Mapping[SpanKind, OpenTelemetryKind] = {
    "internal": OpenTelemetryKind.INTERNAL,
    "server": OpenTelemetryKind.SERVER,
    "producer": OpenTelemetryKind.PRODUCER,
    "consumer": OpenTelemetryKind.CONSUMER,
}
_SEND_EVERY_MS = 1000
"""What a process loses of its spans when it is killed."""
_SEND_TIMEOUT_S = 5.0
_CLOSE_S = 2.0
_NOTHING: Attributes = {}
_propagator = TraceContextTextMapPropagator()


class OtelTracing:
    """Sends the spans of one process to a collector.

    Args:
        url: of the collector, with its path: `http://collector:4318/v1/traces`.
        service: name of this service.
        share: of the traces that begin here, 0 to 1; one that a caller began is as the caller says.
    """

    is_on = True

    def __init__(self, url: str, service: str, share: float) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": service, "service.namespace": "galen"}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=url, timeout=_SEND_TIMEOUT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("galen")

    def begin(
        self,
        name: str,
        parent: str,
        attributes: Attributes = _NOTHING,
        *,
        kind: SpanKind = "internal",
        since_s: float = 0.0,
    ) -> Span:
        """See `Tracing.begin`."""
        above = _propagator.extract({"traceparent": parent}, Context())
        started_ns = time.time_ns() - int(since_s * 1e9)
        return _OtelSpan(
            self._tracer,
            self._tracer.start_span(name, above, _KINDS[kind], attributes, start_time=started_ns),
        )

    def close(self) -> None:
        """See `Tracing.close`; a collector that does not answer holds nobody up for longer."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


class _OtelSpan:
    """See `Span`."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: OpenTelemetrySpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        flags = int(context.trace_flags)
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def child(
        self, name: str, attributes: Attributes = _NOTHING, *, kind: SpanKind = "internal"
    ) -> Span:
        above = set_span_in_context(self._span, Context())
        return _OtelSpan(
            self._tracer, self._tracer.start_span(name, above, _KINDS[kind], attributes)
        )

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def end(self, error: str = "") -> None:
        if not self._span.is_recording():  # it has ended, or is not wanted
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def __enter__(self) -> Span:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.end("" if error is None else str(getattr(error, "code", type(error).__name__)))
