import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import redis.asyncio as aioredis

from services.protocol import keys
from services.protocol.event_stream import EventReader, EventWriter
from services.protocol.messages import (
    Finished,
    GenerationEvent,
    GenerationRequest,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    Tokens,
    WorkerRecord,
    decode_events,
)
from services.protocol.request_queue import RequestQueue, WorkerQueue
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory
from services.worker.outbox import Outbox

WORKER, GATEWAY, MODEL = "worker-1", "gateway-1", "m"


@dataclass
class Post:
    """An outbox on a real Redis, with what its callbacks heard."""

    outbox: Outbox
    reader: EventReader
    fenced: asyncio.Event = field(default_factory=asyncio.Event)
    gone: list[str] = field(default_factory=list)

    async def received(self) -> list[GenerationEvent]:
        await self.outbox.flushed()
        return [e for payload in await self.reader.read() for e in decode_events(payload).events]


@asynccontextmanager
async def post(wire: RedisWire) -> AsyncIterator[Post]:
    fenced, gone = asyncio.Event(), []
    outbox = Outbox(EventWriter(wire), fenced.set, gone.append)
    outbox.begin(WORKER)
    running = asyncio.create_task(outbox.run())
    try:
        yield Post(outbox, EventReader(wire, GATEWAY), fenced, gone)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def claimed(redis_wire: RedisWire) -> str:
    """A live gateway and worker, the worker holding one request; returns its id."""
    directory = WorkerDirectory(redis_wire)
    await directory.gateway_beat(GATEWAY)
    card = ModelCard(MODEL, "fake", 100, 0, frozenset(), frozenset())
    await directory.register(WorkerRecord(WORKER, card, "ready", 4, 0, 0))
    request = GenerationRequest(
        "r1", GATEWAY, "t", MODEL, "interactive",
        (Message("user", (TextPart("hi"),)),), SamplingParams(),
    )  # fmt: skip
    assert await RequestQueue(redis_wire).enqueue(request) is None
    claim = await WorkerQueue(redis_wire, redis_wire, MODEL).claim(WORKER, 4)
    assert [entry.request_id for entry in claim.entries] == ["r1"]
    return "r1"


def tokens(request_id: str, index: int) -> Tokens:
    return Tokens(request_id, 1, index, [index], [f"{index} "])


async def test_tokens_that_wait_together_make_up_one_event(
    redis_client: aioredis.Redis, redis_wire: RedisWire, claimed: str
) -> None:
    async with post(redis_wire) as sent:
        for index in range(5):
            sent.outbox.add(GATEWAY, tokens(claimed, index), stream=True)
        assert await sent.received() == [
            Tokens(claimed, 1, 0, [0, 1, 2, 3, 4], ["0 ", "1 ", "2 ", "3 ", "4 "])
        ]


async def test_an_answer_that_is_not_streamed_leaves_with_its_end(
    redis_client: aioredis.Redis, redis_wire: RedisWire, claimed: str
) -> None:
    end = Finished(claimed, 1, "stop", 1, 2)
    async with post(redis_wire) as sent:
        sent.outbox.add(GATEWAY, tokens(claimed, 0), stream=False)
        await sent.outbox.flushed()
        assert await redis_client.xlen(keys.events(GATEWAY)) == 0
        sent.outbox.add(GATEWAY, tokens(claimed, 1), stream=False)
        sent.outbox.add(GATEWAY, end, stream=False)
        assert await sent.received() == [Tokens(claimed, 1, 0, [0, 1], ["0 ", "1 "]), end]
    assert await redis_client.hlen(keys.running(WORKER)) == 0
    assert await redis_client.hlen(keys.inflight(GATEWAY)) == 0


async def test_a_worker_without_a_lease_writes_nothing_and_hears_of_it(
    redis_client: aioredis.Redis, redis_wire: RedisWire, claimed: str
) -> None:
    await redis_client.delete(keys.LEASES)
    async with post(redis_wire) as sent:
        sent.outbox.add(GATEWAY, tokens(claimed, 0), stream=True)
        async with asyncio.timeout(5):
            await sent.fenced.wait()
        assert await redis_client.xlen(keys.events(GATEWAY)) == 0
        assert int(await redis_client.get(keys.FENCED_WRITES) or 0) == 1


async def test_a_gateway_that_is_gone_is_reported(
    redis_client: aioredis.Redis, redis_wire: RedisWire, claimed: str
) -> None:
    await redis_client.delete(keys.gateway_lease(GATEWAY))
    async with post(redis_wire) as sent:
        sent.outbox.add(GATEWAY, tokens(claimed, 0), stream=True)
        await sent.outbox.flushed()
        assert sent.gone == [GATEWAY]


async def test_a_write_is_repeated_until_redis_is_back_and_nothing_is_doubled(
    redis_client: aioredis.Redis, redis_wire: RedisWire, claimed: str
) -> None:
    async with post(redis_wire) as sent:
        await redis_client.client_pause(600)  # beyond no timeout, but the write has to wait
        sent.outbox.add(GATEWAY, tokens(claimed, 0), stream=True)
        sent.outbox.add(GATEWAY, tokens(claimed, 1), stream=True)
        events = await sent.received()
    assert [token for event in events for token in msgspec.to_builtins(event)[4]] == [0, 1]
