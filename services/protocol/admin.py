"""Administration over Redis: orders to workers and to the agents of hosts, and their replies.

A worker hears orders on the list that also brings it cancellations (`WorkerQueue.next_control`).
An agent (`galen up`) has a lease, a record and a list of its own; it answers each order once: with
"" or why it refuses. What does *not* live here: who may give orders (`gateway/routes/admin.py`)
and what an agent does about them (`launcher/host_agent.py`).
"""

import asyncio
import secrets
from typing import Literal

import msgspec

from services.protocol import keys
from services.protocol.connection import Script
from services.protocol.errors import ErrorCode
from services.protocol.messages import PROTOCOL_VERSION
from services.protocol.request_queue import WorkerOrder
from services.protocol.wire import RedisWire

_SEND_ORDER = Script("send_order")
_HOST_BEAT = Script("host_beat")
_UNLOAD_MODEL = Script("unload_model")

_REPLY_POLL_S = 0.05
_UNLOADED = "the model was unloaded while the request waited for it"

ModelState = Literal["starting", "serving", "unloading", "failed"]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An accelerator of a host, in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


class HostedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that an agent runs.

    Args:
        layout: engine, cards and quantization, in words.
        workers: how many of its workers live, loading ones included.
        cards: indices of the cards that its workers use.
        problem: why it failed, in one line; "" otherwise.
    """

    id: str
    engine: str
    layout: str
    state: ModelState
    workers: int
    cards: tuple[int, ...] = ()
    problem: str = ""


class HostRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent says of its host, renewed with its lease.

    Args:
        host_id: one run of an agent; two on one machine differ in it.
        host: name of the machine.
        free_memory_bytes: main memory that could be had without swapping.
    """

    host_id: str
    host: str
    total_memory_bytes: int
    free_memory_bytes: int
    cards: tuple[Card, ...]
    models: tuple[HostedModel, ...]
    version: int = PROTOCOL_VERSION


class LoadModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="load"):
    """Load a model; None leaves a choice to the planner.

    Args:
        path: of the checkpoint, absolute, on the host; "" for the fake engine.
    """

    model_id: str
    path: str
    engine: Literal["auto", "transformers", "vllm", "fake"] = "auto"
    workers: int | None = None
    slots: int | None = None
    tensor_parallel_size: int | None = None
    quantization: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    context_length: int | None = None
    adapters_dir: str | None = None


class UnloadModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unload"):
    """End the workers of a model; their running requests have `timeout_s` seconds to end."""

    model_id: str
    timeout_s: float


class HostOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order to an agent, by a version, with an id to reply to."""

    version: int
    order_id: str
    order: LoadModel | UnloadModel


class HostReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent says to an order: refused where `refusal` is not empty."""

    refusal: str = ""
    note: str = ""


_encoder = msgspec.msgpack.Encoder()
_record_decoder = msgspec.msgpack.Decoder(HostRecord)
_order_decoder = msgspec.msgpack.Decoder(HostOrder)
_reply_decoder = msgspec.msgpack.Decoder(HostReply)


class AdminOrders:
    """The half of who gives orders."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire

    async def send_to_worker(self, worker_id: str, order: WorkerOrder) -> bool:
        """Give an order to a worker; returns whether it has a lease and will hear it."""
        line = f"{PROTOCOL_VERSION}||{order.name}:{order.timeout_s:g}"
        return await self._send(keys.LEASES, worker_id, keys.control(worker_id), line.encode())

    async def hosts(self) -> list[HostRecord]:
        """Return the records of all hosts with a lease; unreadable ones are left out."""
        return await _beat(self._wire, "", b"")

    async def send_to_host(
        self, host_id: str, order: LoadModel | UnloadModel, timeout_s: float
    ) -> HostReply | None:
        """Give an order to an agent and wait for its reply.

        Returns None where there is no such agent.

        Raises:
            TimeoutError: the agent did not reply in time; whether it obeys is unknown.
        """
        order_id = secrets.token_hex(8)
        payload = _encoder.encode(HostOrder(PROTOCOL_VERSION, order_id, order))
        if not await self._send(keys.HOST_LEASES, host_id, keys.orders(host_id), payload):
            return None
        async with asyncio.timeout(timeout_s):
            while True:
                blob = await self._wire.execute_command("GETDEL", keys.order_reply(order_id))
                if blob is not None:
                    return _reply_decoder.decode(blob)
                await asyncio.sleep(_REPLY_POLL_S)

    async def unload_model(self, model: str) -> int:
        """Let nobody send to the model any more, and end what waits for it.

        It is served again as soon as a worker of it registers. Returns how many requests ended.
        """
        reply = await _UNLOAD_MODEL.run(
            self._wire,
            (
                keys.UNLOADED,
                keys.MODELS,
                keys.DEPTH,
                keys.alone_owner(model),
                keys.affine_workers(model),
                keys.bell(model, keys.INTERACTIVE),
                keys.bell(model, keys.BATCH),
            ),
            keys.PREFIX,
            model,
            keys.quoted(model),
            keys.GROUP,
            PROTOCOL_VERSION,
            ErrorCode.MODEL_UNLOADED.value,
            _UNLOADED,
            *keys.LANES,
            keys.ALONE_LANE,
        )
        return int(reply)

    async def _send(self, leases: str, member: str, list_key: str, line: bytes) -> bool:
        sent = await _SEND_ORDER.run(self._wire, (leases, list_key), member, keys.ORDER_TTL_S, line)
        return bool(sent)


class HostOrders:
    """The agent's half."""

    def __init__(self, wire: RedisWire, blocking: RedisWire, host_id: str) -> None:
        self._wire = wire
        self._blocking = blocking
        self._host_id = host_id

    async def renew(self, record: HostRecord) -> None:
        """Begin or renew the lease."""
        await _beat(self._wire, record.host_id, _encoder.encode(record))

    async def leave(self) -> None:
        """Give the lease up."""
        await self._wire.execute_command("ZREM", keys.HOST_LEASES, self._host_id)
        await self._wire.execute_command("HDEL", keys.HOSTS, self._host_id)
        await self._wire.execute_command("DEL", keys.orders(self._host_id))

    async def next_order(self) -> HostOrder | None:
        """Return an order, or None after `keys.BLOCK_S`; another version's is passed over."""
        reply = await self._blocking.execute_command(
            "BLPOP", keys.orders(self._host_id), keys.BLOCK_S
        )
        if reply is None:
            return None
        try:
            order = _order_decoder.decode(reply[1])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return order if order.version == PROTOCOL_VERSION else None

    async def reply(self, order_id: str, reply: HostReply) -> None:
        """Answer an order."""
        key = keys.order_reply(order_id)
        await self._wire.execute_command("SET", key, _encoder.encode(reply), "EX", keys.ORDER_TTL_S)


async def _beat(wire: RedisWire, host_id: str, record: bytes) -> list[HostRecord]:
    blobs: list[bytes] = await _HOST_BEAT.run(
        wire, (keys.HOST_LEASES, keys.HOSTS), host_id, keys.HOST_LEASE_MS, record
    )
    records: list[HostRecord] = []
    for blob in blobs:
        try:
            found = _record_decoder.decode(blob)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # another version's agent
        if found.version == PROTOCOL_VERSION:
            records.append(found)
    return sorted(records, key=lambda each: each.host_id)
