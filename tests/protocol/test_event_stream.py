"""The way back: what a worker may write, and what its gateway reads."""

import asyncio

import redis.asyncio as aioredis

from services.protocol import keys
from services.protocol.event_stream import End
from services.protocol.messages import decode_events
from tests.protocol.parties import GATEWAY, Wire, finished, request, tokens


async def _claimed(wire: Wire, request_id: str = "r1") -> None:
    await wire.register("w1")
    await wire.queue.enqueue(request(request_id))
    await wire.claim("w1")


async def test_events_arrive_in_order_and_once(wire: Wire):
    await _claimed(wire)
    reader = wire.reader()
    for index in range(3):
        assert await wire.publish("w1", tokens("r1", 1, index)) == "OK"
    payloads = await reader.read()
    await wire.publish("w1", finished("r1", 1, 3), ends=(End("r1", 1),))
    payloads += await reader.read()
    events = [event for payload in payloads for event in decode_events(payload).events]
    assert events == [*(tokens("r1", 1, i) for i in range(3)), finished("r1", 1, 3)]


async def test_reader_returns_nothing_after_its_longest_wait(wire: Wire):
    assert await wire.reader().read() == []


async def test_end_and_acknowledgement_are_one_transaction(wire: Wire):
    await _claimed(wire)
    assert await wire.leftovers() == {"entries": 1, "running": 1, "inflight": 1}
    await wire.publish("w1", finished("r1", 1, 0), ends=(End("r1", 1),))
    assert await wire.leftovers() == {}
    assert await wire.events() == [finished("r1", 1, 0)]


async def test_end_is_safe_to_repeat(wire: Wire):
    await _claimed(wire)
    assert await wire.finish("w1", "r1") == "OK"
    assert await wire.finish("w1", "r1") == "OK"
    assert await wire.leftovers() == {}


async def test_acknowledgement_alone_writes_no_event(wire: Wire):
    await _claimed(wire)
    assert await wire.publish("w1", ends=(End("r1", 1),)) == "OK"
    assert await wire.events() == []
    assert await wire.leftovers() == {}


async def test_write_without_a_lease_is_refused_and_counted(wire: Wire):
    await _claimed(wire)
    await wire.directory.report_death("w1", "lease_expired")
    before = await wire.events()
    assert await wire.publish("w1", tokens("r1", 1, 0)) == "FENCED"
    assert await wire.finish("w1", "r1") == "FENCED"
    assert await wire.events() == before
    assert await wire.client.get(keys.FENCED_WRITES) == b"2"


async def test_write_to_a_gateway_that_is_gone_still_lets_go_of_its_requests(wire: Wire):
    await _claimed(wire)
    await wire.directory.gateway_leave(GATEWAY)
    assert await wire.finish("w1", "r1") == "GATEWAY_GONE"
    assert await wire.events() == []
    assert await wire.leftovers() == {}


async def test_end_of_an_earlier_attempt_acknowledges_nothing(wire: Wire):
    await _claimed(wire)
    await wire.queue.revoke(GATEWAY, "r1")
    await wire.queue.enqueue(request("r1", attempt=2))
    await wire.claim("w1")
    await wire.finish("w1", "r1", attempt=1)
    assert await wire.leftovers() == {"entries": 1, "running": 1, "inflight": 1}
    await wire.finish("w1", "r1", attempt=2)
    assert await wire.leftovers() == {}


async def test_buried_end_goes_to_the_dead_letters(wire: Wire):
    await _claimed(wire)
    ends = (End("r1", 1, "protocol_mismatch"),)
    await wire.publish("w1", finished("r1", 1, 0), ends=ends)
    letters = await wire.dead_letters()
    assert [(letter[b"request_id"], letter[b"reason"]) for letter in letters] == [
        (b"r1", b"protocol_mismatch")
    ]
    assert await wire.leftovers() == {}


async def test_stream_is_trimmed_by_what_was_read_and_never_by_length(wire: Wire):
    await _claimed(wire)
    for index in range(1000):
        await wire.publish("w1", tokens("r1", 1, index))
    assert await wire.client.xlen(keys.events(GATEWAY)) == 1000
    reader = wire.reader()
    read = 0
    while read < 1000:
        read += len(await reader.read())
    await wire.publish("w1", tokens("r1", 1, 1000))
    assert len(await reader.read()) == 1
    assert await _length(wire.client) <= 64


async def _length(client: aioredis.Redis) -> int:
    return await client.xlen(keys.events(GATEWAY))


async def test_restarted_reader_reads_a_stream_that_began_anew(wire: Wire):
    await _claimed(wire)
    reader = wire.reader()
    await wire.publish("w1", tokens("r1", 1, 0))
    await reader.read()
    await wire.client.flushdb()
    await wire.directory.gateway_beat(GATEWAY)
    await wire.client.xadd(keys.events(GATEWAY), {"b": b"older than the last"}, id="1-1")
    reader.restart()
    assert await reader.read() == [b"older than the last"]


async def test_many_writers_at_once_share_round_trips_and_lose_nothing(wire: Wire):
    await _claimed(wire)
    await asyncio.gather(*(wire.publish("w1", tokens("r1", 1, i)) for i in range(200)))
    assert await wire.events() == [tokens("r1", 1, i) for i in range(200)]


async def test_scripts_that_redis_forgot_are_loaded_again(wire: Wire):
    await _claimed(wire)
    await wire.client.script_flush()
    assert await wire.finish("w1", "r1") == "OK"
    await wire.client.script_flush()
    await wire.register("w2")
