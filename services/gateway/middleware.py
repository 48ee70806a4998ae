"""What every HTTP response gets: a request id, one log line, one count. Pure ASGI."""

import secrets
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.metrics import GatewayMetrics

_log = structlog.get_logger()

_ROUTES = frozenset({"/v1/chat/completions", "/v1/models", "/healthz", "/readyz", "/metrics"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestIdMiddleware:
    """Gives each request an id (`scope["galen.request_id"]`, header `x-request-id`) and logs its end."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"chatcmpl-{secrets.token_hex(12)}"
        scope["galen.request_id"] = request_id
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, time.monotonic() - started)

    def _record(self, scope: Scope, request_id: str, status: int, duration_s: float) -> None:
        path = scope["path"]
        route = path if path in _ROUTES else "other"
        self._metrics.responses.labels(route, str(status)).inc()
        if code := scope.get("galen.code"):
            self._metrics.failed.labels(code).inc()
        if path not in _QUIET:
            _log.info(
                "request.finished",
                request_id=request_id,
                route=route,
                method=scope["method"][:16],
                status=status,
                code=code,
                duration_s=round(duration_s, 4),
                **scope.get("galen.fields", {}),
            )
