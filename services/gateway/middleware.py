"""The outermost layer: a request id, who asks, one log line and one count for every HTTP response.

Pure ASGI. Nothing behind it is reached before `access/gate.py` has let the request in.

The chat route is served from here directly. FastAPI's own way to it (router, exit stacks, five
wrappers around `send`) costs more than all of our work on a request; see docs/benchmarks.md.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.access.parts import Access
from services.gateway.error_handlers import error_response, respond_to_error
from services.gateway.memory import MemoryGuard
from services.gateway.metrics import GatewayMetrics
from services.gateway.state import GatewayState, shutting_down
from services.protocol.errors import ErrorCode, GalenError, OverloadedError, RequestError
from services.tracing.spans import NO_SPAN, Span, Tracing, logged

if TYPE_CHECKING:
    from services.gateway.audit import Asked
    from services.gateway.caller import Caller

_log = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]

_ROUTES = frozenset({
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models",
    "/v1/files", "/v1/batches", "/v1/evaluations", "/v1/feedback", "/v1/usage", "/v1/galen/preview",
    "/healthz", "/readyz", "/metrics",
})  # fmt: skip
_GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_ID_PREFIXES = {"/v1/completions": "cmpl-", "/v1/responses": "resp_"}
_FAMILIES = frozenset({
    "/v1/files", "/v1/batches", "/v1/evaluations", "/v1/feedback", "/v1/admin",
})  # fmt: skip
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_PLAIN_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{0,255}")
"""A name or an address, and a port; anything else could change the URL it becomes a part of."""


class FrontDoor:
    """Wraps the application.

    Args:
        app: serves everything that is not in `direct`, and documents all of it.
        direct: handlers by (method, path) that are called without the framework's layers.
        memory: says what is refused before its body is read.
    """

    def __init__(
        self,
        app: FastAPI,
        direct: Mapping[tuple[str, str], Handler],
        metrics: GatewayMetrics,
        memory: MemoryGuard,
        access: Access,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._memory = memory
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = scope["galen.request_id"] = _new_id(scope["path"])
        if self._tracing.is_on and scope["path"] not in _QUIET:
            scope["galen.span"] = self._begin_span(scope, request_id)
        handler = self._direct.get((scope["method"], scope["path"]))
        outcome = _Outcome()
        try:
            if (full := self._refusal(scope)) is not None:
                await self._serve(full, scope, receive, send, outcome)
            elif (refusal := await self._why_not(scope)) is not None:
                await self._serve(_refuse(refusal), scope, receive, send, outcome)
            elif handler is not None:
                await self._serve(handler, scope, receive, send, outcome)
            else:
                await self._app(scope, receive, _with_id(send, scope, outcome))
        except Exception as error:  # noqa: BLE001 - a bug; the server would log its text, too
            if "galen.code" not in scope:  # the framework raises again what it has answered
                respond_to_error(Request(scope), error)
        finally:
            self._record(scope, request_id, outcome.status, time.monotonic() - started)

    async def _why_not(self, scope: Scope) -> GalenError | None:
        """Return why a request may not come in; None: it may."""
        if not _has_plain_host(scope):
            message = "the Host header is neither a name nor an address"
            return RequestError(ErrorCode.BAD_REQUEST, message)
        try:
            await self._access.gate.admit(scope)
        except GalenError as error:
            return error
        return None

    async def _serve(
        self, handler: Handler, scope: Scope, receive: Receive, send: Send, outcome: "_Outcome"
    ) -> None:
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await handler(request)
        except asyncio.CancelledError:  # by the server, at the end of its patience
            response = respond_to_error(request, shutting_down())
        except Exception as error:  # noqa: BLE001 - the outermost border of a request
            response = respond_to_error(request, error)
        outcome.status = response.status_code
        response.raw_headers += _own_headers(scope)
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> Handler | None:
        """Return what refuses a request that there is no memory for."""
        if not self._memory.limit_bytes or scope["path"] in _QUIET:
            return None
        try:
            self._memory.check_headers(scope["method"], dict(scope["headers"]))
        except OverloadedError as error:
            refusal = error_response(error)
            refusal.headers["connection"] = "close"  # the rest of the body is not waited for
            scope["galen.code"] = error.code.value
            return _answer_of(refusal)
        return None

    def _record(self, scope: Scope, request_id: str, status: int, duration_s: float) -> None:
        path = scope["path"]
        route = _route_of(path)
        code = scope.get("galen.code")
        self._access.meter.end(scope, status)
        self._metrics.responses.labels(route, str(status)).inc()
        if code:
            self._metrics.failed.labels(code, "yes" if route in _GENERATING else "no").inc()
            asked: Asked | None = scope.get("galen.asked")
            model = asked.entry.id if asked is not None else ""
            self._metrics.recent_errors.add(code, model, status)
        state: GatewayState | None = getattr(self._app.state, "galen", None)
        if state is not None and route != "other":
            state.audit.add(scope, route, status, duration_s)
        if path not in _QUIET:
            fields: dict[str, Any] = scope.get("galen.fields", {})
            caller: Caller | None = scope.get("galen.caller")
            span: Span = scope.get("galen.span", NO_SPAN)
            if span is not NO_SPAN:
                _end_span(span, status, code, caller, fields)
            if caller is not None and caller.key_id is not None:
                fields = {**fields, "key_id": caller.key_id, "tenant": caller.tenant_id}
            _log.info(
                "request.finished",
                request_id=request_id,
                route=route,
                method=scope["method"][:16],
                status=status,
                code=code,
                duration_s=round(duration_s, 4),
                **fields,
                **logged(span),
            )

    def _begin_span(self, scope: Scope, request_id: str) -> Span:
        method, route = scope["method"][:16], _route_of(scope["path"])
        parents = [value for name, value in scope["headers"] if name == b"traceparent"]
        return self._tracing.begin(
            f"{method} {route}",
            parents[0].decode("ascii", "replace") if len(parents) == 1 else "",
            {"http.request.method": method, "http.route": route, "galen.request_id": request_id},
            kind="server",
        )


def _new_id(path: str) -> str:
    """Return a request's id, which is also that of its answer: with the API's own prefix."""
    return _ID_PREFIXES.get(path, "chatcmpl-") + secrets.token_hex(12)


def _route_of(path: str) -> str:
    """Return a path of a closed set: without ids, and one for all that we do not have."""
    if path in _ROUTES:
        return path
    family = "/".join(path.split("/", 3)[:3])
    return family if family in _FAMILIES else "other"


def _end_span(
    span: Span, status: int, code: str | None, caller: "Caller | None", fields: Mapping[str, Any]
) -> None:
    """End the span of a request; what is the caller's fault is no error of ours."""
    names = {
        "model": "gen_ai.request.model",
        "prompt_tokens": "gen_ai.usage.input_tokens",
        "completion_tokens": "gen_ai.usage.output_tokens",
        "ttft_s": "galen.time_to_first_token_s",
        "stream": "galen.stream",
    }
    span.note({name: fields[field] for field, name in names.items() if field in fields})
    span.note({"http.response.status_code": status})
    if caller is not None:
        span.note({"galen.tenant": caller.tenant_id})
    if code and 400 <= status < 500:
        span.note({"error.type": code})
        code = None
    span.end(code or "")


def _has_plain_host(scope: Scope) -> bool:
    return all(_PLAIN_HOST.fullmatch(v) for name, v in scope["headers"] if name == b"host")


def _refuse(error: GalenError) -> Handler:
    async def refuse(_request: Request) -> Response:
        raise error

    return refuse


def _answer_of(response: Response) -> Handler:
    async def answer(_request: Request) -> Response:
        return response

    return answer


class _Outcome:
    """The status of a response, once it is known."""

    status = 0


def _own_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return what every response has: its id, and what is left of the key's limits."""
    identity = (b"x-request-id", scope["galen.request_id"].encode())
    return [identity, *scope.get("galen.headers", ())]


def _with_id(send: Send, scope: Scope, outcome: _Outcome) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            outcome.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_own_headers(scope)]
        await send(message)

    return send_with_id
