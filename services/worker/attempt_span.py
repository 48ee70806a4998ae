"""The part of a trace that a worker adds: how long an attempt waited, and its generation.

A worker begins no traces: what came without a context is not traced.
"""

from services.protocol.messages import EngineEvent, Failed, Finished, GenerationRequest
from services.protocol.request_queue import ClaimedEntry
from services.tracing.spans import NO_SPAN, Span, Tracing

FIRST_TOKEN = "first token"  # noqa: S105 - the name of an event


def begin_generation(
    tracing: Tracing, entry: ClaimedEntry, request: GenerationRequest, worker_id: str
) -> Span:
    """Record the wait of a claimed request, which is over, and begin its generation."""
    if not tracing.is_on or not entry.traceparent:
        return NO_SPAN
    attributes = {
        "galen.request_id": request.request_id,
        "galen.attempt": request.attempt,
        "galen.lane": request.lane,
        "galen.worker_id": worker_id,
    }
    if entry.waited_s is not None:
        tracing.begin(
            "queue wait", entry.traceparent, attributes, kind="consumer", since_s=entry.waited_s
        ).end()
    attributes["galen.resumed_tokens"] = len(request.resume_token_ids)
    return tracing.begin("generate", entry.traceparent, attributes)


def end_generation(span: Span, event: EngineEvent) -> None:
    """End it with its last event."""
    if span is NO_SPAN:
        return
    if isinstance(event, Finished):
        span.note({
            "gen_ai.usage.input_tokens": event.prompt_tokens,
            "gen_ai.usage.output_tokens": event.completion_tokens,
            "galen.image_tokens": event.image_tokens,
            "galen.finish_reason": event.finish_reason,
        })  # fmt: skip
    span.end(event.code if isinstance(event, Failed) else "")
