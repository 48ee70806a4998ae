"""/v1/admin: workers (cordon, uncordon, drain), hosts, and models to load and unload.

The front door asks for the scope `admin`. Orders go through Redis (`protocol/admin.py`): to a
worker, or to the agent of a host, which is a `galen up`.
"""

import asyncio

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.admin_schemas import (
    AdminCard,
    AdminDone,
    AdminHost,
    AdminHostList,
    AdminWorkerList,
    DrainRequest,
    LoadModelRequest,
    read_drain_request,
    read_load_request,
    worker_of,
)
from services.gateway.body import read_json, read_optional_json
from services.gateway.routes.api_document import answers, body_of
from services.gateway.state import GatewayState, state_of
from services.protocol.admin import HostRecord, HostReply, LoadModel, UnloadModel
from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import (
    DeadlineError,
    ErrorCode,
    GalenError,
    NotFoundError,
    RequestError,
    UnavailableError,
)
from services.protocol.request_queue import OrderName, WorkerOrder

_LOAD_REPLY_S = 30.0
_UNLOAD_REPLY_S = 5.0
_SHOWN = 80


router = APIRouter(prefix="/v1/admin")


@router.get(
    "/workers", summary="List the workers", responses=answers(AdminWorkerList, "Every worker")
)
async def list_workers(request: Request) -> Response:
    """Every worker with a lease, those of unloaded models included."""
    state = await fresh_state(request)
    return _json(AdminWorkerList([worker_of(record) for record in state.catalogue.workers]))


@router.post(
    "/workers/{worker_id}/cordon",
    summary="Let a worker claim nothing new",
    responses=answers(AdminDone, "It was told"),
)
async def cordon_worker(request: Request, worker_id: str) -> Response:
    """What it runs goes on; it stays loaded."""
    return await _order(request, worker_id, "cordon")


@router.post(
    "/workers/{worker_id}/uncordon",
    summary="Let a worker claim again",
    responses=answers(AdminDone, "It was told"),
)
async def uncordon_worker(request: Request, worker_id: str) -> Response:
    """Undo a cordon."""
    return await _order(request, worker_id, "uncordon")


@router.post(
    "/workers/{worker_id}/drain",
    summary="Let a worker finish and end",
    openapi_extra={"requestBody": {"required": False, "content": body_of(DrainRequest)}},
    responses=answers(AdminDone, "It was told"),
)
async def drain_worker(request: Request, worker_id: str) -> Response:
    """It finishes what it runs, hands back what is left after `timeout_s`, and exits."""
    drain = read_drain_request(await read_optional_json(request, state_of(request).settings))
    return await _order(request, worker_id, "drain", drain.timeout_s)


@router.get("/hosts", summary="List the hosts", responses=answers(AdminHostList, "Every host"))
async def list_hosts(request: Request) -> Response:
    """Every host whose agent can load models, with its cards and memory."""
    return _json(AdminHostList([host_of(record) for record in await hosts_of(state_of(request))]))


@router.post(
    "/models",
    summary="Load a model",
    openapi_extra={"requestBody": {"required": True, "content": body_of(LoadModelRequest)}},
    responses=answers(AdminDone, "Its workers start"),
)
async def load_model(request: Request) -> Response:
    """Checks the checkpoint, chooses a layout and starts workers; answers before they are ready."""
    state = state_of(request)
    wanted = read_load_request(await read_json(request, state.settings))
    request.scope["galen.object"] = wanted.model_id
    host = _choose_host(await hosts_of(state), wanted.host)
    fields = {
        name: getattr(wanted, name) for name in LoadModel.__struct_fields__ if name not in _OWN
    }
    order = LoadModel(model_id=wanted.model_id, path=wanted.path or "", **fields)
    reply = await _tell_host(state, host.host_id, order, _LOAD_REPLY_S)
    if reply.refusal:
        raise RequestError(ErrorCode.MODEL_LOAD_REFUSED, reply.refusal)
    return _json(AdminDone(wanted.model_id, note=reply.note))


_OWN = frozenset({"model_id", "path"})


@router.delete(
    "/models/{model:path}",
    summary="Unload a model",
    openapi_extra={"requestBody": {"required": False, "content": body_of(DrainRequest)}},
    responses=answers(AdminDone, "It is not served any more"),
)
async def unload_model(request: Request, model: str) -> Response:
    """Unknown to clients at once; what waits ends with an error, what runs may finish."""
    drain = read_drain_request(await read_optional_json(request, state_of(request).settings))
    state = await fresh_state(request)
    hosts = [h for h in await hosts_of(state) if any(m.id == model for m in h.models)]
    workers = [record for record in state.catalogue.workers if record.model.id == model]
    if not hosts and not workers:
        entry = state.catalogue.known(model)  # raises where it was never served
        if entry.adapter is not None:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"{model[:_SHOWN]!r} is an adapter of {entry.card.id!r}; take its folder away",
                param="model",
            )
    try:
        num_ended = await state.admin.unload_model(model)
        await state.pulse.read_directory()
    except REDIS_AWAY:
        raise _redis_away() from None
    order = UnloadModel(model, drain.timeout_s)
    replies = [_tell_host(state, host.host_id, order, _UNLOAD_REPLY_S) for host in hosts]
    for reply in await asyncio.gather(*replies, return_exceptions=True):
        if isinstance(reply, BaseException) and not isinstance(reply, GalenError):
            raise reply  # an agent that just ended has no workers left
    for record in workers:
        await _send(state, record.worker_id, WorkerOrder("drain", drain.timeout_s))
    finishing = "1 worker finishes" if len(workers) == 1 else f"{len(workers)} workers finish"
    were = "request was" if num_ended == 1 else "requests were"
    note = f"{finishing} what is running; {num_ended} waiting {were} ended"
    return _json(AdminDone(model, note=note))


async def _order(
    request: Request, worker_id: str, name: OrderName, timeout_s: float = 0.0
) -> Response:
    if not await _send(state_of(request), worker_id, WorkerOrder(name, timeout_s)):
        raise NotFoundError(
            ErrorCode.WORKER_NOT_FOUND,
            f"there is no worker {worker_id[:_SHOWN]!r}; see GET /v1/admin/workers",
        )
    return _json(AdminDone(worker_id, note=f"told to {name}"))


async def _send(state: GatewayState, worker_id: str, order: WorkerOrder) -> bool:
    try:
        return await state.admin.send_to_worker(worker_id, order)
    except REDIS_AWAY:
        raise _redis_away() from None


async def _tell_host(
    state: GatewayState, host_id: str, order: LoadModel | UnloadModel, timeout_s: float
) -> HostReply:
    try:
        reply = await state.admin.send_to_host(host_id, order, timeout_s)
    except TimeoutError:
        raise DeadlineError(
            ErrorCode.TIMEOUT, f"the agent of {host_id} did not reply within {timeout_s:g} s"
        ) from None
    except REDIS_AWAY:
        raise _redis_away() from None
    if reply is None:
        raise _no_host(f"the host {host_id[:_SHOWN]!r} is gone")
    return reply


def _choose_host(hosts: list[HostRecord], wanted: str | None) -> HostRecord:
    names = ", ".join(host.host_id for host in hosts)
    if wanted is not None:
        for host in hosts:
            if wanted == host.host_id:
                return host
        raise _no_host(f"there is no host {wanted[:_SHOWN]!r}; there are: {names or 'none'}")
    if not hosts:
        raise _no_host("no host can load models: start a `galen up` on one")
    if len(hosts) > 1:
        raise RequestError(
            ErrorCode.MISSING_PARAMETER, f"say on which `host`: {names[:400]}", param="host"
        )
    return hosts[0]


async def hosts_of(state: GatewayState) -> list[HostRecord]:
    """Return every host with an agent; raises UnavailableError while Redis is away."""
    try:
        return await state.admin.hosts()
    except REDIS_AWAY:
        raise _redis_away() from None


async def fresh_state(request: Request) -> GatewayState:
    """Return the state with a directory as of now."""
    state = state_of(request)
    try:
        await state.pulse.read_directory()
    except REDIS_AWAY:
        raise _redis_away() from None
    return state


def host_of(record: HostRecord) -> AdminHost:
    """Return a record in the form of the API."""
    return AdminHost(
        record.host_id,
        record.host,
        record.total_memory_bytes,
        record.free_memory_bytes,
        [AdminCard(c.index, c.name, c.total_bytes, c.free_bytes) for c in record.cards],
        list(record.models),
    )


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _no_host(message: str) -> NotFoundError:
    return NotFoundError(ErrorCode.HOST_NOT_FOUND, message, param="host")


def _redis_away() -> UnavailableError:
    return UnavailableError(
        ErrorCode.BACKEND_UNAVAILABLE, "Redis is not reachable at the moment", retry_after_s=2.0
    )
