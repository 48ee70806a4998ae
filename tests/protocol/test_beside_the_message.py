"""What a queue entry says beside the message: how long it waited, and the context of its trace."""

from services.protocol import keys
from services.protocol.messages import decode_request, encode
from tests.protocol.parties import MODEL, Wire, request
from tests.support.waiting import eventually

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def redis_ms(wire: Wire) -> float:
    seconds, micros = await wire.client.time()
    return seconds * 1000 + micros / 1000


async def test_claim_says_how_long_a_request_waited_by_redis_own_clock(wire: Wire):
    await wire.register("w1")
    began = await redis_ms(wire)
    await wire.queue.enqueue(request("r1"))
    queued = await redis_ms(wire)

    async def is_later() -> bool:
        return await redis_ms(wire) > queued + 40

    await eventually(is_later, 2.0, "a moment")
    (entry,) = (await wire.claim("w1")).entries
    ended = await redis_ms(wire)

    assert entry.waited_s is not None
    assert 40 <= entry.waited_s * 1000 <= ended - began + 1


async def test_later_attempt_has_waited_since_it_was_queued_itself(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1", attempt=2))
    (entry,) = (await wire.claim("w1")).entries

    assert entry.waited_s is not None
    assert 0 <= entry.waited_s < 2.0


async def test_context_of_a_trace_comes_with_the_request_and_changes_nothing_in_it(wire: Wire):
    await wire.register("w1")
    sent = request("r1")
    await wire.queue.enqueue(sent, traceparent=CONTEXT)
    (entry,) = (await wire.claim("w1")).entries
    (held,) = (await wire.worker_queue().held("w1")).entries

    assert entry.traceparent == held.traceparent == CONTEXT
    assert held.waited_s is None
    assert entry.payload == encode(sent)  # what a worker of an earlier release reads
    assert decode_request(entry.payload) == sent


async def test_untraced_request_is_queued_as_by_an_earlier_release(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    ((_, fields),) = await wire.client.xrange(keys.work(MODEL, "interactive", "t1"))
    (entry,) = (await wire.claim("w1")).entries

    assert set(fields) == {
        b"request_id", b"attempt", b"strikes", b"gateway_id", b"cost", b"payload",
    }  # fmt: skip
    assert entry.traceparent == ""


async def test_figures_count_what_redis_refused_and_buried(wire: Wire):
    before = await wire.directory.figures()
    await wire.finish("nobody", "r1")
    await wire.register("w1")
    await wire.queue.enqueue(request("r2", strikes=1))
    await wire.claim("w1")
    await wire.directory.report_death("w1", "engine_died")
    after = await wire.directory.figures()

    assert (before.dead_letters, before.fenced_writes) == (0, 0)
    assert (after.dead_letters, after.fenced_writes, after.fenced_renewals) == (1, 1, 0)
