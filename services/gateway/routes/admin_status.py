"""/v1/admin/status and /v1/admin/errors: how things stand, for operators and the page."""

import asyncio
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.admin_schemas import (
    AdminErrorList,
    AdminGateway,
    AdminQueue,
    AdminStatus,
    worker_of,
)
from services.gateway.routes import admin
from services.gateway.routes.admin import fresh_state, host_of, hosts_of
from services.gateway.routes.api_document import answers
from services.gateway.state import GatewayState, state_of

router = APIRouter(prefix=admin.router.prefix, dependencies=admin.router.dependencies)


@router.get(
    "/status", summary="How things stand", responses=answers(AdminStatus, "As of this moment")
)
async def status(request: Request) -> Response:
    """Workers, hosts with their cards, what waits and for about how long, and this gateway."""
    state, hosts = await asyncio.gather(fresh_state(request), hosts_of(state_of(request)))
    body = AdminStatus(
        [worker_of(record) for record in state.catalogue.workers],
        [host_of(record) for record in hosts],
        _queues(state),
        AdminGateway(
            state.dispatcher.gateway_id,
            state.dispatcher.num_open,
            state.is_draining,
            state.memory.used_bytes,
            state.memory.limit_bytes,
        ),
    )
    return Response(msgspec.json.encode(body), media_type="application/json")


@router.get(
    "/errors",
    summary="Recent errors by cause",
    responses=answers(AdminErrorList, "The latest first"),
)
async def errors(request: Request) -> Response:
    """Counts of this gateway since its start, per error code and model; no content."""
    latest = state_of(request).metrics.recent_errors.latest()
    return Response(msgspec.json.encode(AdminErrorList(latest)), media_type="application/json")


def _queues(state: GatewayState) -> list[AdminQueue]:
    load = state.dispatcher.load
    queues: list[AdminQueue] = []
    for field, waiting in sorted(load.depths().items()):
        model, _, lane = field.partition("|")
        rate, wait_s = load.rate_per_s(field), load.wait_s(field, waiting)
        queues.append(AdminQueue(unquote(model), lane, waiting, _rounded(rate), _rounded(wait_s)))
    return queues


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
