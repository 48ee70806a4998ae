"""Writes a reply to its client as server-sent events, and notices when the client has gone.

The response sends to the socket itself (no StreamingResponse: it costs half the time of a token):
everything that is ready goes out in one write, one event per token in it.
"""

import asyncio
import time
from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.chunks import Usage
from services.gateway.error_handlers import error_answer, known_error
from services.gateway.http_protocol import drop
from services.gateway.metrics import GatewayMetrics
from services.gateway.questions import Question, StreamFormat, renamed
from services.gateway.replies import ClientGone, Ping, Reply, ReplyItem, error_of
from services.gateway.sse import PING
from services.gateway.state import GatewayState
from services.protocol.errors import GalenError
from services.protocol.messages import Failed, Finished, Tokens

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_LARGE_BYTES = 32 << 10
"""A last write that is not smaller is followed by an empty one, so that it is seen to be read."""


class AnswerStream(Response):
    """A streamed answer.

    Args:
        first: what came before the headers were sent (so that an early error has its status).
        form: renders it.
    """

    def __init__(
        self,
        state: GatewayState,
        reply: Reply,
        first: Sequence[ReplyItem],
        form: StreamFormat,
        question: Question,
    ) -> None:
        super().__init__(status_code=200)
        self.init_headers(_HEADERS)
        del self.headers["content-length"]
        self._state = state
        self._reply = reply
        self._first = first
        self._form = form
        self._question = question
        self._started = [False] * len(reply.tickets)
        self._ends: dict[int, Finished] = {}
        self._failure: GalenError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send everything; a client that stopped reading or left loses its connection."""
        reply = self._reply
        reply.response_task = asyncio.current_task()
        clock = _StreamClock(reply.received)
        is_whole = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            is_whole = await self._send_items(send, clock)
        except asyncio.CancelledError:
            pass  # by Reply.abandon, or by a server that waits no longer
        finally:
            reply.response_task = None
            self._state.end(reply)
        if is_whole:
            self._record(scope, self._state.metrics, clock)
        else:
            await _abort(send)

    async def _send_items(self, send: Send, clock: "_StreamClock") -> bool:
        """Return whether the stream was sent to its end."""
        reply = self._reply
        items = self._first
        while not reply.abandoned:
            body, is_over = self._render_safely(items, clock)
            reply.sending_since = reply.heard = time.monotonic()
            is_last = is_over and len(body) < _LARGE_BYTES
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            if is_over and not is_last:  # this one waits until the client has read enough
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            reply.sending_since = 0.0
            clock.sent()
            if is_over:
                return True
            items = await reply.take()
        return False

    def _render_safely(
        self, items: Sequence[ReplyItem], clock: "_StreamClock"
    ) -> tuple[bytes, bool]:
        try:
            return self._render(items, clock)
        except Exception as error:  # noqa: BLE001 - a bug; the client is told in the stream
            return self._fail(known_error(error)), True

    def _fail(self, error: GalenError) -> bytes:
        self._failure = renamed(error, self._question.names)
        return self._form.fail(error_answer(error))

    def _render(self, items: Sequence[ReplyItem], clock: "_StreamClock") -> tuple[bytes, bool]:
        """Return the bytes of `items`, and whether they end the stream."""
        parts: list[bytes] = []
        for choice, item in items:
            match item:
                case Tokens():
                    self._begin(choice, parts)
                    parts.append(self._form.tokens(choice, item))
                    clock.has_content = clock.has_content or any(item.texts)
                case Finished():
                    self._begin(choice, parts)
                    parts.append(self._form.finish(choice, item.finish_reason))
                    self._ends[choice] = item
                case Failed() if len(self._ends) < len(self._started):  # else it came too late
                    parts.append(self._fail(error_of(item)))
                    return b"".join(parts), True
                case Ping() | ClientGone():
                    parts.append(PING)
                case Failed():
                    pass
        if len(self._ends) < len(self._started):
            return b"".join(parts), False
        parts.append(self._form.end(self._question.usage(self._ends)))
        return b"".join(parts), True

    def _begin(self, choice: int, parts: list[bytes]) -> None:
        if not self._started[choice]:
            self._started[choice] = True
            parts.append(self._form.begin(choice))

    def _record(self, scope: Scope, metrics: GatewayMetrics, clock: "_StreamClock") -> None:
        ends = list(self._ends.values())
        model = self._question.chat.model
        fields: dict[str, object] = {"model": model, "stream": True}
        if ends:
            fields |= record_ends(metrics, model, ends, self._question.usage(self._ends))
        if clock.ttft_s is not None:
            metrics.ttft.labels(model).observe(clock.ttft_s)
            fields["ttft_s"] = round(clock.ttft_s, 4)
            tokens = sum(end.completion_tokens for end in ends) / max(1, len(ends))
            if tokens >= 2:
                metrics.tpot.labels(model).observe(clock.spread_s / (tokens - 1))
        metrics.duration.labels(model).observe(time.monotonic() - self._reply.received)
        if self._failure is not None:
            scope["galen.code"] = self._failure.code.value
        scope["galen.fields"] = fields


async def _abort(send: Send) -> None:
    """Drop a connection with all that waits in its write buffer, which nobody reads.

    ASGI has no message for it: uvicorn's `send` is a method of the object that has the transport.
    With another server, the connection ends when that server sees fit. The last message returns
    once the connection is lost, so that the server does not miss it.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        drop(transport)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _StreamClock:
    """When content left: TTFT, and the time from the first to the last content."""

    def __init__(self, received: float) -> None:
        self._received = received
        self._first = 0.0
        self._last = 0.0
        self.has_content = False

    def sent(self) -> None:
        """A write is done."""
        if self.has_content:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.has_content = False

    @property
    def ttft_s(self) -> float | None:
        return self._first - self._received if self._first else None

    @property
    def spread_s(self) -> float:
        return self._last - self._first


def record_ends(
    metrics: GatewayMetrics, model: str, ends: Sequence[Finished], usage: Usage
) -> dict[str, object]:
    """Count finished choices; returns the fields for the log."""
    metrics.prompt_tokens.labels(model).inc(usage.prompt_tokens)
    metrics.completion_tokens.labels(model).inc(usage.completion_tokens)
    for end in ends:
        metrics.finished.labels(model, end.finish_reason).inc()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "finish_reason": ",".join(end.finish_reason for end in ends),
    }
