"""The parties of the wire, for tests of its scripts: no engines, no HTTP."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from services.protocol import keys
from services.protocol.connection import connect, open_wire
from services.protocol.event_stream import End, EventReader, EventWriter
from services.protocol.messages import (
    PROTOCOL_VERSION,
    EventBatch,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Lane,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    Tokens,
    WorkerRecord,
    decode_events,
    encode,
)
from services.protocol.request_queue import Claim, RequestQueue, WorkerQueue
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory

MODEL = "model/with:odd names"
GATEWAY = "gateway-1"


def request(
    request_id: str,
    *,
    tenant: str = "t1",
    lane: Lane = "interactive",
    gateway: str = GATEWAY,
    attempt: int = 1,
    strikes: int = 0,
    alone: bool = False,
    model: str = MODEL,
) -> GenerationRequest:
    """A request as a gateway would send it."""
    return GenerationRequest(
        request_id=request_id,
        gateway_id=gateway,
        tenant_id=tenant,
        model=model,
        lane=lane,
        messages=(Message("user", (TextPart("[[n=4]]"),)),),
        sampling=SamplingParams(),
        attempt=attempt,
        strikes=strikes,
        alone=alone,
    )


def tokens(request_id: str, attempt: int, index: int, count: int = 1) -> Tokens:
    """Tokens `index`, … of an answer."""
    numbers = list(range(index, index + count))
    return Tokens(request_id, attempt, index, numbers, [f"zq{n:04d} " for n in numbers])


def finished(request_id: str, attempt: int, count: int) -> Finished:
    """A good end."""
    return Finished(request_id, attempt, "stop", 1, count)


@dataclass(slots=True)
class Wire:
    """One Redis database with everything that speaks through it."""

    url: str
    client: Any = field(init=False)  # redis-py types replies of newer protocol versions, too
    commands: RedisWire = field(init=False)
    blocking: RedisWire = field(init=False)
    queue: RequestQueue = field(init=False)
    directory: WorkerDirectory = field(init=False)
    writer: EventWriter = field(init=False)

    def __post_init__(self) -> None:
        self.client = connect(self.url)
        self.commands, self.blocking = open_wire(self.url), open_wire(self.url, blocking=True)
        self.queue = RequestQueue(self.commands)
        self.directory = WorkerDirectory(self.commands)
        self.writer = EventWriter(self.commands)

    async def close(self) -> None:
        for each in (self.client, self.commands, self.blocking):
            await each.aclose()

    def worker_queue(self, model: str = MODEL) -> WorkerQueue:
        return WorkerQueue(self.commands, self.blocking, model)

    def reader(self, gateway_id: str = GATEWAY) -> EventReader:
        return EventReader(self.blocking, gateway_id)

    async def register(self, *worker_ids: str, model: str = MODEL) -> None:
        for worker_id in worker_ids:
            await self.directory.register(record(worker_id, model))

    async def claim(self, worker_id: str, free: int = 100) -> Claim:
        return await self.worker_queue().claim(worker_id, free)

    async def claim_ids(self, worker_id: str, free: int = 100) -> list[str]:
        return [entry.request_id for entry in (await self.claim(worker_id, free)).entries]

    async def publish(
        self,
        worker_id: str,
        *events: GenerationEvent,
        ends: tuple[End, ...] = (),
        gateway: str = GATEWAY,
    ) -> str:
        batch = EventBatch(PROTOCOL_VERSION, worker_id, list(events))
        return await self.writer.publish(worker_id, gateway, encode(batch) if events else b"", ends)

    async def finish(self, worker_id: str, request_id: str, attempt: int = 1) -> str:
        return await self.publish(
            worker_id, finished(request_id, attempt, 0), ends=(End(request_id, attempt),)
        )

    async def events(self, gateway: str = GATEWAY) -> list[GenerationEvent]:
        """Everything that stands in a gateway's reply stream."""
        entries = await self.client.xrange(keys.events(gateway))
        return [e for _, fields in entries for e in decode_events(fields[b"b"]).events]

    async def let_lease_end(self, worker_id: str) -> None:
        """As if the worker had not renewed for longer than its lease."""
        await self.client.zadd(keys.LEASES, {worker_id: 1})

    async def dead_letters(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in await self.client.xrange(keys.DEAD)]

    async def num_entries(self) -> int:
        """Entries in all sub-queues, waiting and running."""
        streams = [key async for key in self.client.scan_iter(keys.PREFIX + "work:*")]
        return sum([await self.client.xlen(key) for key in streams])

    async def waiting_by_lane(self) -> Counter[str]:
        """What waits, by the lanes that it stands in."""
        found = Counter[str]()
        async for stream in self.client.scan_iter(keys.PREFIX + "work:*"):
            pending = await self.client.xpending(stream, keys.GROUP)
            lane = stream.decode().split(":")[-2]
            found[lane] += await self.client.xlen(stream) - pending["pending"]
        return found

    async def waiting_by_worker(self) -> Counter[str]:
        """What waits in workers' own lanes."""
        found = Counter[str]()
        for lane, count in (await self.waiting_by_lane()).items():
            if (worker := lane.partition(".")[2]) and count:
                found[worker] += count
        return found

    async def leftovers(self) -> dict[str, int]:
        """What an idle platform must not hold."""
        found = {"entries": await self.num_entries()}
        for name in ("running", "inflight"):
            hashes = [key async for key in self.client.scan_iter(f"{keys.PREFIX}{name}:*")]
            found[name] = sum([await self.client.hlen(key) for key in hashes])
        depths = await self.client.hvals(keys.DEPTH)
        found["depth"] = sum(abs(int(depth)) for depth in depths)
        return {name: count for name, count in found.items() if count}


def record(worker_id: str, model: str = MODEL, slots: int = 8) -> WorkerRecord:
    """What a worker says of itself."""
    card = ModelCard(model, "fake", 1024, 0, frozenset(), frozenset({"greedy"}))
    return WorkerRecord(worker_id, card, "ready", slots, 0, 0)


async def open_parties(url: str) -> AsyncIterator[Wire]:
    """Yield the wire on an empty database, with one gateway alive."""
    wire = Wire(url)
    await wire.directory.gateway_beat(GATEWAY)
    yield wire
    await wire.close()
