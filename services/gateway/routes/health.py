"""GET /healthz (this process turns), /readyz (it can answer requests), /metrics (Prometheus)."""

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from services.gateway.state import state_of

router = APIRouter()

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready"}}


@router.get("/healthz", summary="Is this process alive?")
async def healthz() -> Response:
    """200 as long as the event loop turns."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", summary="Can this process answer requests?", responses=_NOT_READY)
async def readyz(request: Request) -> Response:
    """200 where Redis answers and a worker makes progress; else 503 and what is missing.

    `?worker=optional` asks for no worker: for a balancer whose clients may wait for one.
    """
    state = state_of(request)
    checks = {
        "accepting": not state.is_draining,
        "redis": state.dispatcher.is_redis_up and state.pulse.is_fresh,
        "worker": state.catalogue.has_ready_worker,
    }
    is_optional = request.query_params.get("worker") == "optional"
    is_ready = all(done for name, done in checks.items() if name != "worker" or not is_optional)
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return JSONResponse(body, 200 if is_ready else 503)


@router.get(
    "/metrics",
    summary="Metrics in Prometheus's text form",
    response_class=PlainTextResponse,
    responses=_TEXT,
)
async def metrics(request: Request) -> Response:
    """All metrics of this process."""
    text = generate_latest(state_of(request).metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
