"""The outermost layer: a request id, one log line and one count for every HTTP response. Pure ASGI.

The chat route is served from here directly. FastAPI's own way to it (router, exit stacks, five
wrappers around `send`) costs more than all of our work on a request; see docs/benchmarks.md.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.gateway.error_handlers import respond_to_error
from services.gateway.metrics import GatewayMetrics
from services.gateway.state import GatewayState, shutting_down
from services.protocol.errors import ErrorCode, RequestError

_log = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]

_ROUTES = frozenset({
    "/v1/chat/completions", "/v1/models", "/v1/files", "/v1/batches", "/v1/evaluations",
    "/v1/feedback", "/healthz", "/readyz", "/metrics",
})  # fmt: skip
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
    """

    def __init__(
        self, app: FastAPI, direct: Mapping[tuple[str, str], Handler], metrics: GatewayMetrics
    ) -> None:
        self._app = app
        self._direct = direct
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = scope["galen.request_id"] = f"chatcmpl-{secrets.token_hex(12)}"
        handler = self._direct.get((scope["method"], scope["path"]))
        outcome = _Outcome()
        try:
            if not _has_plain_host(scope):
                await self._serve(_refuse_host, scope, receive, send, outcome)
            elif handler is not None:
                await self._serve(handler, scope, receive, send, outcome)
            else:
                await self._app(scope, receive, _with_id(send, request_id, outcome))
        except Exception as error:  # noqa: BLE001 - a bug; the server would log its text, too
            if "galen.code" not in scope:  # the framework raises again what it has answered
                respond_to_error(Request(scope), error)
        finally:
            self._record(scope, request_id, outcome.status, time.monotonic() - started)

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
        response.raw_headers.append((b"x-request-id", scope["galen.request_id"].encode()))
        await response(scope, receive, send)

    def _record(self, scope: Scope, request_id: str, status: int, duration_s: float) -> None:
        path = scope["path"]
        route = _route_of(path)
        code = scope.get("galen.code")
        self._metrics.responses.labels(route, str(status)).inc()
        if code:
            self._metrics.failed.labels(code).inc()
        state: GatewayState | None = getattr(self._app.state, "galen", None)
        if state is not None and route != "other":
            state.audit.add(scope, route, status, duration_s)
        if path not in _QUIET:
            fields: dict[str, Any] = scope.get("galen.fields", {})
            _log.info(
                "request.finished",
                request_id=request_id,
                route=route,
                method=scope["method"][:16],
                status=status,
                code=code,
                duration_s=round(duration_s, 4),
                **fields,
            )


def _route_of(path: str) -> str:
    """Return a path of a closed set: without ids, and one for all that we do not have."""
    if path in _ROUTES:
        return path
    family = "/".join(path.split("/", 3)[:3])
    return family if family in _FAMILIES else "other"


def _has_plain_host(scope: Scope) -> bool:
    return all(_PLAIN_HOST.fullmatch(v) for name, v in scope["headers"] if name == b"host")


async def _refuse_host(_request: Request) -> Response:
    raise RequestError(ErrorCode.BAD_REQUEST, "the Host header is neither a name nor an address")


class _Outcome:
    """The status of a response, once it is known."""

    status = 0


def _with_id(send: Send, request_id: str, outcome: _Outcome) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            outcome.status = message["status"]
            identity = (b"x-request-id", request_id.encode())
            message["headers"] = [*message.get("headers", ()), identity]
        await send(message)

    return send_with_id
