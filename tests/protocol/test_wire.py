import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as aioredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.protocol.connection import REDIS_AWAY
from services.protocol.wire import RedisWire


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisWire]:
    wire = RedisWire(redis_url, timeout_s=5.0)
    yield wire
    await wire.aclose()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://:secret@queue:6380/2", "redis://queue:6380/2"),
        ("rediss://me:secret@[::1]?password=secret&db=1", "rediss://[::1]:6379/1"),
        ("redis://me%40:sec%2Fret@queue", "redis://queue:6379/0"),
        ("unix://me:secret@/run/redis.sock?db=3", "unix:///run/redis.sock"),
    ],
)
def test_an_address_for_people_holds_no_password(url: str, address: str) -> None:
    assert RedisWire(url, timeout_s=1.0).address == address


async def test_replies_come_in_the_order_of_the_calls(link: RedisWire) -> None:
    calls = [link.execute_command("ECHO", str(number)) for number in range(500)]
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(500)]


async def test_every_plain_type_goes_there_and_back(link: RedisWire) -> None:
    await link.execute_command("SET", "k", b"\x00\xff\r\n")
    assert await link.execute_command("GET", "k") == b"\x00\xff\r\n"
    assert await link.execute_command("GET", "none") is None
    assert await link.execute_command("INCRBY", "n", 3) == 3
    assert await link.execute_command("RPUSH", "l", "a", 1, 2.5) == 3
    assert await link.execute_command("LRANGE", "l", 0, -1) == [b"a", b"1", b"2.5"]


async def test_an_error_reply_fails_its_own_call_only(link: RedisWire) -> None:
    bad = link.execute_command("NOSUCH")
    good = link.execute_command("PING")
    with pytest.raises(ResponseError):
        await bad
    assert await good == b"PONG"
    with pytest.raises(NoScriptError):
        await link.execute_command("EVALSHA", "0" * 40, 0)


async def test_the_database_of_the_url_is_selected(
    link: RedisWire, redis_client: aioredis.Redis
) -> None:
    await link.execute_command("SET", "k", "v")
    assert await redis_client.get("k") == b"v"


async def test_a_cancelled_call_does_not_shift_the_replies(link: RedisWire) -> None:
    assert await link.execute_command("PING") == b"PONG"
    first = asyncio.ensure_future(link.execute_command("ECHO", "1"))
    second = link.execute_command("ECHO", "2")
    first.cancel()
    assert await second == b"2"


async def test_a_cut_connection_fails_what_is_under_way_and_the_next_call_reconnects(
    link: RedisWire, redis_client: aioredis.Redis
) -> None:
    number = await link.execute_command("CLIENT", "ID")
    blocked = asyncio.ensure_future(link.execute_command("BLPOP", "nothing", 5))
    await redis_client.client_kill_filter(_id=str(number))
    with pytest.raises(RedisConnectionError):
        await blocked
    assert await link.execute_command("PING") == b"PONG"


async def test_no_reply_in_time_is_a_timeout(redis_url: str) -> None:
    wire = RedisWire(redis_url, timeout_s=0.2)
    with pytest.raises(RedisTimeoutError):
        await wire.execute_command("BLPOP", "nothing", 2)
    assert await wire.execute_command("PING") == b"PONG"
    await wire.aclose()


async def test_an_address_without_redis_is_an_outage(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1/0"):
        wire = RedisWire(url, timeout_s=1.0)
        with pytest.raises(REDIS_AWAY):
            await wire.execute_command("PING")
        await wire.aclose()


async def test_a_closed_wire_refuses(link: RedisWire) -> None:
    assert await link.execute_command("PING") == b"PONG"
    await link.aclose()
    with pytest.raises(RedisConnectionError):
        await link.execute_command("PING")


async def test_a_password_in_the_url_is_used(redis_url: str, redis_client: aioredis.Redis) -> None:
    await redis_client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all")
    try:
        address = redis_url.replace("unix://", "unix://reader:secret@")
        wire = RedisWire(address, timeout_s=2.0)
        assert await wire.execute_command("ACL", "WHOAMI") == b"reader"
        await wire.aclose()
        wrong = RedisWire(address.replace("secret", "guess"), timeout_s=2.0)
        with pytest.raises(REDIS_AWAY):
            await wrong.execute_command("PING")
        await wrong.aclose()
    finally:
        await redis_client.execute_command("ACL", "DELUSER", "reader")
