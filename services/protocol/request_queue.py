"""The queue of requests: into fair sub-queues, out to workers with free slots, and back.

Alone in knowing how sub-queues of (model, lane, tenant) are drained. Both halves of each operation
are Lua scripts beside this file, so each happens wholly or not at all. What does *not* live here:
the answers (`event_stream.py`), leases and the death of workers (`worker_directory.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from services.protocol import keys
from services.protocol.connection import Script, as_text
from services.protocol.messages import PROTOCOL_VERSION, GenerationRequest, Lane, encode
from services.protocol.wire import RedisWire

_ENQUEUE = Script("room", "enqueue")
_CHECK_ROOM = Script("room", "check_room")
_SETTLE = Script("settle")
_CLOSE_LANES = Script("release_lanes", "close_lanes")
_CLAIM = Script("claim")
_HELD = Script("held")
_REVOKE = Script("revoke")

LOAD_FACTOR = 1.25
"""A worker gets no request by affinity beyond so many times the average load: c = 1 + epsilon of
consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, arXiv:1608.01350)."""
LOOK_AHEAD = 4
"""Nor beyond so many times its slots: what waits for it stays short, whatever waits elsewhere."""


@dataclass(frozen=True, slots=True)
class QueueFull:
    """The lane has no room; `waiting` requests are in it."""

    waiting: int


@dataclass(frozen=True, slots=True)
class ClaimedEntry:
    """A queue entry that this worker now holds; `payload` is not decoded yet.

    Args:
        waited_s: in the queue, by Redis's clock alone; None where it is not known any more.
        traceparent: W3C context of the attempt, where it is traced; else empty. It stands beside
            the message, so that workers of earlier releases pass over it.
    """

    request_id: str
    attempt: int
    gateway_id: str
    payload: bytes
    waited_s: float | None = None
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker got.

    Args:
        alone: the one entry is a suspect: nothing else may run beside it.
        reserved: suspects wait for this worker: it must run empty first, and gets nothing else.
    """

    entries: tuple[ClaimedEntry, ...]
    alone: bool = False
    reserved: bool = False


OrderName = Literal["cordon", "uncordon", "drain"]


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What an operator tells a worker.

    Args:
        name: `cordon`: claim nothing new; `uncordon`: claim again; `drain`: finish and end.
        timeout_s: of a drain: time for running requests before they are handed back.
    """

    name: OrderName
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A request that a worker has to abort, if it holds this attempt of it."""

    request_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that may have the images of a request in memory."""

    worker_id: str
    slots: int


@dataclass(frozen=True, slots=True)
class LanePlace:
    """Where a request would wait."""

    model: str
    lane: Lane
    tenant_id: str


class UnloadedError(Exception):
    """The model was unloaded: nobody will run what is sent to it."""


class FencedError(Exception):
    """This worker's lease is over: everything it held belongs to others now."""


class RequestQueue:
    """The gateway's half: put requests in and take them back."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire

    async def enqueue(
        self,
        request: GenerationRequest,
        *,
        max_waiting: int = 0,
        cost_tokens: int = 1,
        candidates: Sequence[Candidate] = (),
        traceparent: str = "",
    ) -> QueueFull | None:
        """Put a request into its sub-queue; safe to repeat, a request enters once per attempt.

        Args:
            request: with attempt > 1 it goes before first attempts, alone if it says so.
            max_waiting: refuse beyond so many waiting requests in the lane, unless its tenant has
                less than its share of them; 0: never.
            cost_tokens: what its tenant is charged when a worker takes it.
            candidates: of a first attempt: workers of the model, first the one that should run it.
                It goes to the own lane of the first that is below its bound, else to the shared
                lane, as it does where requests of other tenants wait there.
            traceparent: see `ClaimedEntry`.

        Raises:
            UnloadedError: the model was unloaded; nothing was queued.
            RedisError, OSError: Redis is away; whether the request stands in the queue is unknown.
        """
        lane = _lane(request)
        model = request.model
        status, waiting = await _ENQUEUE.run(
            self._wire,
            (
                keys.DEPTH,
                keys.inflight(request.gateway_id),
                keys.UNLOADED,
                keys.LEASES,
                keys.affine_workers(model),
                keys.bell(model, _class_of(lane)),
            ),
            keys.PREFIX,
            model,
            keys.quoted(model),
            lane,
            request.request_id,
            request.attempt,
            request.strikes,
            request.gateway_id,
            keys.quoted(request.tenant_id),
            max_waiting,
            keys.BELL_CAP,
            keys.GROUP,
            encode(request),
            keys.WORK_TTL_MS,
            keys.GATEWAY_STATE_MS,
            keys.CONTROL_TTL_S * 1000,
            LOAD_FACTOR,
            cost_tokens,
            traceparent,
            *_bounded(candidates if lane == request.lane else ()),
        )
        if as_text(status) == "UNLOADED":
            raise UnloadedError(model)
        return None if as_text(status) == "OK" else QueueFull(int(waiting))

    async def check_room(
        self,
        place: LanePlace,
        max_waiting: int,
        *,
        before: int = 0,
        workers: Sequence[Candidate] = (),
    ) -> QueueFull | None:
        """Say whether a first attempt would find room; raises as `enqueue` does.

        Args:
            before: requests that were told so and are not queued yet.
            workers: of the model; what they have free is room, too.
        """
        model, lane = place.model, place.lane
        status, waiting = await _CHECK_ROOM.run(
            self._wire,
            (keys.DEPTH, keys.UNLOADED),
            keys.PREFIX,
            model,
            keys.quoted(model),
            lane,
            keys.quoted(place.tenant_id),
            max_waiting,
            keys.GROUP,
            before,
            *(part for each in workers for part in (each.worker_id, each.slots)),
        )
        if as_text(status) == "UNLOADED":
            raise UnloadedError(model)
        return None if as_text(status) == "OK" else QueueFull(int(waiting))

    async def settle(self, model: str, lane: Lane, corrections: Mapping[str, int]) -> None:
        """Correct what tenants were charged by what their requests really were.

        Args:
            corrections: tenant -> tokens more (or less) than `cost_tokens` said.
        """
        pairs = [(keys.quoted(tenant), tokens) for tenant, tokens in corrections.items()]
        await _SETTLE.run(
            self._wire,
            (keys.given(model, lane), keys.turns(model, lane)),
            *(part for pair in pairs for part in pair),
        )

    async def revoke(
        self, gateway_id: str, request_id: str
    ) -> Literal["NONE", "QUEUED", "RUNNING"]:
        """Take a request back: from the queue, or from its worker, which is told to abort it.

        After the call no event of the request's present attempt can be acknowledged any more.
        """
        where = await _REVOKE.run(
            self._wire,
            (keys.inflight(gateway_id), keys.DEPTH),
            keys.PREFIX,
            request_id,
            keys.GROUP,
            keys.CONTROL_TTL_S,
            PROTOCOL_VERSION,
        )
        return as_text(where)  # pyright: ignore[reportReturnType] - the script's three words


class WorkerQueue:
    """The worker's half: claim requests, hear of cancellations and orders."""

    def __init__(self, wire: RedisWire, blocking: RedisWire, model: str) -> None:
        self._wire = wire
        self._blocking = blocking
        self._model = model

    async def claim(self, worker_id: str, free: int, batch: int | None = None) -> Claim:
        """Take at most `free` requests; never blocks. Raises FencedError without a lease.

        Args:
            batch: most of them that may be of the batch lanes; None: all.
        """
        reply = await _CLAIM.run(
            self._wire,
            (
                keys.LEASES,
                keys.running(worker_id),
                keys.DEPTH,
                keys.bell(self._model, keys.INTERACTIVE),
                keys.bell(self._model, keys.BATCH),
                keys.alone_owner(self._model),
                keys.DEAD,
                keys.affine(worker_id),
                keys.affine_workers(self._model),
                keys.wake(worker_id),
            ),
            keys.PREFIX,
            keys.quoted(self._model),
            worker_id,
            free,
            free if batch is None else batch,
            keys.GROUP,
            keys.DEAD_LETTERS_KEPT,
            PROTOCOL_VERSION,
            *keys.LANES,
        )
        if as_text(reply[0]) == "FENCED":
            raise FencedError(worker_id)
        return _as_claim(reply)

    async def held(self, worker_id: str) -> Claim:
        """Return all that this worker holds, for one that missed the reply to a claim."""
        return _as_claim(await _HELD.run(self._wire, (keys.running(worker_id),)))

    async def wait_for_work(self, worker_id: str, *, for_batch: bool = True) -> None:
        """Return when a request may be waiting, or after `keys.BLOCK_S`.

        Args:
            for_batch: whether this worker has room for a request of the batch lanes; without it
                one that waits must not wake it again and again.
        """
        bells = [keys.wake(worker_id), keys.bell(self._model, keys.INTERACTIVE)]
        if for_batch:
            bells.append(keys.bell(self._model, keys.BATCH))
        await self._blocking.execute_command("BLPOP", *bells, keys.BLOCK_S)

    async def wake(self, worker_id: str) -> None:
        """Let this worker's `wait_for_work` return."""
        await self._wire.execute_command("RPUSH", keys.wake(worker_id), "1")
        await self._wire.execute_command("EXPIRE", keys.wake(worker_id), keys.CONTROL_TTL_S)

    async def wake_another(self) -> None:
        """Pass on a wake-up that this worker may have taken without acting on it."""
        for lane_class in (keys.INTERACTIVE, keys.BATCH):
            await self._wire.execute_command("RPUSH", keys.bell(self._model, lane_class), "1")

    async def close_lanes(self, worker_id: str) -> None:
        """Give others what waits for this worker alone, until it claims again."""
        await _CLOSE_LANES.run(
            self._wire,
            (keys.LEASES, keys.affine(worker_id)),
            keys.PREFIX,
            keys.GROUP,
            worker_id,
            keys.WORK_TTL_MS,
        )

    async def next_control(self, worker_id: str) -> Cancellation | WorkerOrder | None:
        """Return what to abort or to obey, or None after `keys.BLOCK_S`."""
        reply = await self._blocking.execute_command("BLPOP", keys.control(worker_id), keys.BLOCK_S)
        return None if reply is None else _as_control(as_text(reply[1]))


def _lane(request: GenerationRequest) -> str:
    if request.alone:
        return keys.ALONE_LANE
    if request.attempt > 1:
        return "resume" if request.lane == "interactive" else "batch_resume"
    return request.lane


def _bounded(candidates: Sequence[Candidate]) -> Iterator[str | int]:
    for each in candidates:
        yield each.worker_id
        yield LOOK_AHEAD * each.slots


def _class_of(lane: str) -> str:
    return keys.BATCH if lane.startswith(keys.BATCH) else keys.INTERACTIVE


def _as_control(line: str) -> Cancellation | WorkerOrder | None:
    """Read an entry of a control list; one of another version is passed over."""
    version, request_id, value = line.split("|")
    if version != str(PROTOCOL_VERSION):
        return None
    if request_id:
        return Cancellation(request_id, int(value))
    order, _, timeout_s = value.partition(":")
    if order not in get_args(OrderName):
        return None
    return WorkerOrder(order, float(timeout_s))  # pyright: ignore[reportArgumentType] - just checked


def _as_claim(reply: list[Any]) -> Claim:
    """Read the reply of `claim.lua` or `held.lua`: a status, then six fields per entry."""
    status = as_text(reply[0])
    entries = tuple(_as_entry(*reply[i : i + 6]) for i in range(1, len(reply), 6))
    return Claim(entries, alone=status == "ALONE", reserved=status == "RESERVED")


def _as_entry(
    request_id: bytes, attempt: bytes, gateway_id: bytes, payload: bytes, ms: int, context: bytes
) -> ClaimedEntry:
    return ClaimedEntry(
        as_text(request_id),
        int(attempt),
        as_text(gateway_id),
        payload,
        ms / 1000 if ms >= 0 else None,
        as_text(context),
    )
