"""A Redis that cannot do its work is an outage, whatever words it uses, also inside a script."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from services.protocol.connection import REDIS_AWAY
from services.protocol.event_stream import EventWriter
from services.protocol.request_queue import RequestQueue, WorkerQueue
from services.protocol.wire import RedisWire, _reply_error
from services.protocol.worker_directory import WorkerDirectory
from tests.protocol.parties import GATEWAY, MODEL, record, request

WRITES: dict[str, Callable[[RedisWire], Awaitable[object]]] = {
    "enqueue": lambda wire: RequestQueue(wire).enqueue(request("r1")),
    "publish": lambda wire: EventWriter(wire).publish("w1", GATEWAY, b"x" * 100, ()),
    "register": lambda wire: WorkerDirectory(wire).register(record("w2")),
    "gateway_beat": lambda wire: WorkerDirectory(wire).gateway_beat(GATEWAY),
}


@pytest.fixture
async def full_redis(
    redis_wire: RedisWire, redis_client: aioredis.Redis
) -> AsyncIterator[RedisWire]:
    """A Redis with a worker, a gateway and a waiting request, and no memory left."""
    await WorkerDirectory(redis_wire).gateway_beat(GATEWAY)
    await WorkerDirectory(redis_wire).register(record("w1"))
    await RequestQueue(redis_wire).enqueue(request("r0"))
    await redis_client.config_set("maxmemory", 1)
    yield redis_wire
    await redis_client.config_set("maxmemory", 0)


async def test_a_full_redis_still_gives_out_what_waits(full_redis: RedisWire) -> None:
    """Redis lets a script finish whose first write frees memory: what is running ends."""
    claim = await WorkerQueue(full_redis, full_redis, MODEL).claim("w1", 1)
    assert [entry.request_id for entry in claim.entries] == ["r0"]


@pytest.mark.parametrize("name", WRITES)
async def test_a_full_redis_is_away_for_every_script(full_redis: RedisWire, name: str) -> None:
    with pytest.raises(REDIS_AWAY):
        await WRITES[name](full_redis)


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not",
        "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -MISCONF Re",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script.",
        "MASTERDOWN Link with MASTER is down",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN Hash slot not served",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ERR max number of clients reached",
    ],
)
def test_transient_refusals_are_an_outage(text: str) -> None:
    assert isinstance(_reply_error(text), REDIS_AWAY)


@pytest.mark.parametrize("text", ["ERR unknown command", "WRONGTYPE Operation against a key", "X"])
def test_our_own_mistakes_are_none(text: str) -> None:
    error = _reply_error(text)
    assert isinstance(error, ResponseError)
    assert not isinstance(error, REDIS_AWAY)
