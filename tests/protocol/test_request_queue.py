"""Into the queue, out to workers, and back."""

import asyncio
import time
from dataclasses import replace

import pytest

from services.protocol import keys
from services.protocol.event_stream import End
from services.protocol.messages import decode_request
from services.protocol.request_queue import (
    Cancellation,
    Claim,
    ClaimedEntry,
    FencedError,
    QueueFull,
)
from tests.protocol.parties import MODEL, Wire, request
from tests.support.waiting import eventually


async def test_claim_gives_the_request_that_was_put_in(wire: Wire):
    await wire.register("w1")
    sent = request("r1")
    assert await wire.queue.enqueue(sent) is None
    claim = await wire.claim("w1")
    assert [decode_request(entry.payload) for entry in claim.entries] == [sent]
    assert not claim.alone
    assert not claim.reserved


async def test_claim_takes_no_more_than_the_free_slots(wire: Wire):
    await wire.register("w1")
    for index in range(5):
        await wire.queue.enqueue(request(f"r{index}"))
    assert await wire.claim_ids("w1", free=2) == ["r0", "r1"]
    assert await wire.claim_ids("w1", free=2) == ["r2", "r3"]
    assert await wire.claim_ids("w1", free=2) == ["r4"]
    assert await wire.claim_ids("w1", free=2) == []


async def test_two_workers_never_get_the_same_request(wire: Wire):
    await wire.register("w1", "w2")
    await asyncio.gather(*(wire.queue.enqueue(request(f"r{i}")) for i in range(40)))
    claims = await asyncio.gather(*(wire.claim_ids(w, 5) for w in ("w1", "w2") for _ in range(4)))
    got = [request_id for claim in claims for request_id in claim]
    assert len(got) == 40
    assert set(got) == {f"r{i}" for i in range(40)}


async def test_tenants_take_turns_whatever_one_of_them_sends(wire: Wire):
    await wire.register("w1")
    for index in range(6):
        await wire.queue.enqueue(request(f"a{index}", tenant="a"))
    await wire.queue.enqueue(request("b0", tenant="b"))
    await wire.queue.enqueue(request("c0", tenant="c:|%odd"))
    await wire.queue.enqueue(request("b1", tenant="b"))
    first = await wire.claim_ids("w1", free=3)
    rest = await wire.claim_ids("w1", free=6)
    assert first == ["a0", "b0", "c0"]
    assert rest == ["a1", "b1", "a2", "a3", "a4", "a5"]


async def test_turns_go_on_where_the_last_claim_ended(wire: Wire):
    await wire.register("w1", "w2")
    for index in range(3):
        for tenant in "abc":
            await wire.queue.enqueue(request(f"{tenant}{index}", tenant=tenant))
    got = [await wire.claim_ids(worker, free=1) for worker in ("w1", "w2") * 2]
    assert got == [["a0"], ["b0"], ["c0"], ["a1"]]


async def test_lanes_are_drained_in_their_order(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("batch", lane="batch"))
    await wire.queue.enqueue(request("interactive"))
    await wire.queue.enqueue(request("batch again", attempt=2, lane="batch"))
    await wire.queue.enqueue(request("interactive again", attempt=2))
    assert await wire.claim_ids("w1", free=1) == ["interactive again"]
    assert await wire.claim_ids("w1", free=3) == ["interactive", "batch again", "batch"]


async def test_a_count_that_drifted_is_set_right_by_an_empty_ring(wire: Wire):
    await wire.register("w1")
    await wire.client.hset(keys.DEPTH, keys.depth_field(MODEL, "interactive"), 7)
    assert await wire.claim_ids("w1") == []
    assert await wire.leftovers() == {}


async def test_what_nobody_takes_has_a_lifetime(wire: Wire):
    await wire.queue.enqueue(request("r1"))
    assert 0 < await wire.client.pttl(keys.work(MODEL, "interactive", "t1")) <= keys.WORK_TTL_MS
    assert 0 < await wire.client.pttl(keys.inflight("gateway-1")) <= keys.GATEWAY_STATE_MS


async def test_worker_of_another_model_gets_nothing(wire: Wire):
    await wire.register("w1", model="other")
    await wire.queue.enqueue(request("r1"))
    assert (await wire.worker_queue("other").claim("w1", 5)).entries == ()
    await wire.queue.enqueue(request("r2", model="other"))
    claim = await wire.worker_queue("other").claim("w1", 5)
    assert [entry.request_id for entry in claim.entries] == ["r2"]


async def test_worker_without_a_lease_gets_nothing(wire: Wire):
    await wire.queue.enqueue(request("r1"))
    with pytest.raises(FencedError):
        await wire.claim("w1")


async def test_enqueue_again_after_a_lost_reply_enters_once(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    assert await wire.queue.enqueue(request("r1")) is None
    assert await wire.claim_ids("w1") == ["r1"]
    assert await wire.queue.enqueue(request("r1")) is None
    assert await wire.claim_ids("w1") == []
    assert await wire.directory.waiting() == {keys.depth_field(MODEL, "interactive"): 0}


async def test_full_lane_refuses_and_keeps_nothing(wire: Wire):
    for index in range(3):
        assert await wire.queue.enqueue(request(f"r{index}"), max_waiting=3) is None
    assert await wire.queue.enqueue(request("r3"), max_waiting=3) == QueueFull(3)
    assert await wire.num_entries() == 3
    assert await wire.queue.enqueue(request("b0", lane="batch"), max_waiting=3) is None
    await wire.register("w1")
    await wire.claim("w1", free=1)
    assert await wire.queue.enqueue(request("r3"), max_waiting=3) is None


async def test_full_lane_still_accepts_the_repetition_of_what_it_holds(wire: Wire):
    await wire.queue.enqueue(request("r0"), max_waiting=1)
    assert await wire.queue.enqueue(request("r0"), max_waiting=1) is None


async def test_doorbell_wakes_a_sleeping_worker_at_once(wire: Wire):
    sleeping = asyncio.create_task(wire.worker_queue().wait_for_work("w1"))
    await eventually(lambda: _is_blocked(wire), 2.0, "a blocked client")
    sent = time.monotonic()
    await wire.queue.enqueue(request("r1"))
    await sleeping
    assert time.monotonic() - sent < keys.BLOCK_S / 2


async def _is_blocked(wire: Wire) -> bool:
    return (await wire.client.info("clients"))["blocked_clients"] > 0


async def test_doorbell_keeps_ringing_while_requests_wait(wire: Wire):
    await wire.register("w1", "w2")
    for index in range(4):
        await wire.queue.enqueue(request(f"r{index}"))
    await wire.worker_queue().wait_for_work("w1")
    await wire.claim("w1", free=2)
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) >= 1
    await wire.claim("w2", free=2)
    assert await wire.claim_ids("w2", free=2) == []
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) == 0


async def test_batch_requests_take_no_more_than_their_share(wire: Wire):
    await wire.register("w1")
    for index in range(4):
        await wire.queue.enqueue(request(f"b{index}", lane="batch"))
    await wire.queue.enqueue(request("again", lane="batch", attempt=2))
    await wire.queue.enqueue(request("i0"))
    claim = await wire.worker_queue().claim("w1", 8, 3)
    assert [e.request_id for e in claim.entries] == ["i0", "again", "b0", "b1"]
    assert (await wire.worker_queue().claim("w1", 4, 0)).entries == ()


async def test_batch_bell_rings_for_others_and_not_for_a_worker_without_room_for_batch(wire: Wire):
    await wire.register("w1", "w2")
    for index in range(2):
        await wire.queue.enqueue(request(f"b{index}", lane="batch"))
    await wire.worker_queue().claim("w1", 8, 1)
    assert await wire.client.llen(keys.bell(MODEL, "batch")) >= 1
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) == 0
    asked = time.monotonic()
    await wire.worker_queue().wait_for_work("w1", for_batch=False)
    assert time.monotonic() - asked >= keys.BLOCK_S / 2
    await wire.worker_queue().wait_for_work("w2")
    assert await wire.claim_ids("w2") == ["b1"]


async def test_worker_without_room_for_batch_is_woken_by_an_interactive_request(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("b0", lane="batch"))
    await wire.worker_queue().claim("w1", 8, 0)
    sleeping = asyncio.create_task(wire.worker_queue().wait_for_work("w1", for_batch=False))
    await eventually(lambda: _is_blocked(wire), 2.0, "a blocked client")
    sent = time.monotonic()
    await wire.queue.enqueue(request("i0"))
    await sleeping
    assert time.monotonic() - sent < keys.BLOCK_S / 2


async def test_worker_can_wake_itself(wire: Wire):
    await wire.worker_queue().wake("w1")
    asked = time.monotonic()
    await wire.worker_queue().wait_for_work("w1", for_batch=False)
    assert time.monotonic() - asked < keys.BLOCK_S / 2


async def test_doorbell_never_grows_beyond_its_cap(wire: Wire):
    await asyncio.gather(*(wire.queue.enqueue(request(f"r{i}")) for i in range(60)))
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) == keys.BELL_CAP


async def test_revoke_takes_a_waiting_request_out_of_the_queue(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.queue.enqueue(request("r2"))
    assert await wire.queue.revoke("gateway-1", "r1") == "QUEUED"
    assert await wire.claim_ids("w1") == ["r2"]
    assert (await wire.directory.waiting())[keys.depth_field(MODEL, "interactive")] == 0


async def test_revoke_tells_the_worker_that_runs_the_request(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.claim("w1")
    assert await wire.queue.revoke("gateway-1", "r1") == "RUNNING"
    assert await wire.worker_queue().next_control("w1") == Cancellation("r1", 1)
    assert await wire.leftovers() == {}


async def test_revoke_of_what_is_over_does_nothing(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.claim("w1")
    await wire.finish("w1", "r1")
    assert await wire.queue.revoke("gateway-1", "r1") == "NONE"
    assert await wire.queue.revoke("gateway-1", "never seen") == "NONE"
    assert await wire.client.llen(keys.control("w1")) == 0


async def test_nothing_acknowledges_a_request_after_its_revocation(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.claim("w1")
    await wire.queue.revoke("gateway-1", "r1")
    await wire.queue.enqueue(request("r1", attempt=2))
    await wire.publish("w1", ends=(End("r1", 1),))
    assert await wire.claim_ids("w1") == ["r1"]
    assert await wire.client.hlen(keys.inflight("gateway-1")) == 1


async def test_cancellation_is_none_when_there_is_none(wire: Wire):
    assert await wire.worker_queue().next_control("w1") is None


async def test_request_of_a_gateway_that_is_gone_is_dropped(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1", gateway="gateway-gone"))
    await wire.queue.enqueue(request("r2"))
    assert await wire.claim_ids("w1") == ["r2"]
    assert await wire.num_entries() == 1


async def test_malformed_entry_goes_to_the_dead_letters_and_the_worker_goes_on(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.client.xadd(keys.work(MODEL, "interactive", "t1"), {"what": "ever"})
    await wire.queue.enqueue(request("r2"))
    assert await wire.claim_ids("w1") == ["r1", "r2"]
    letters = await wire.dead_letters()
    assert [letter[b"reason"] for letter in letters] == [b"malformed_entry"]
    assert await wire.num_entries() == 2


async def test_sub_queue_that_was_deleted_is_forgotten(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("r1", tenant="a"))
    await wire.client.delete(keys.work(MODEL, "interactive", "a"))
    await wire.queue.enqueue(request("r2", tenant="b"))
    assert await wire.claim_ids("w1") == ["r2"]
    await wire.queue.enqueue(request("r3", tenant="a"))
    assert await wire.claim_ids("w1") == ["r3"]


def without_waits(claim: Claim) -> list[ClaimedEntry]:
    """What is found again later says no more how long it had waited."""
    return [replace(entry, waited_s=None) for entry in claim.entries]


async def test_worker_that_missed_the_reply_to_a_claim_finds_what_it_holds(wire: Wire):
    await wire.register("w1", "w2")
    for name in ("r1", "r2", "r3"):
        await wire.queue.enqueue(request(name))
    await wire.claim("w2", free=1)
    missed = await wire.claim("w1")
    held = await wire.worker_queue().held("w1")
    assert sorted(held.entries, key=lambda e: e.request_id) == without_waits(missed)
    assert not held.alone
    await wire.queue.revoke("gateway-1", "r2")
    await wire.finish("w1", "r3")
    assert (await wire.worker_queue().held("w1")).entries == ()


async def test_missed_suspect_is_still_found_to_run_alone(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("suspect", attempt=2, strikes=1, alone=True))
    missed = await wire.claim("w1")
    held = await wire.worker_queue().held("w1")
    assert held.alone
    assert list(held.entries) == without_waits(missed)


# --- suspects run alone ---


async def test_suspect_runs_on_an_empty_worker_with_nothing_beside_it(wire: Wire):
    await wire.register("w1")
    await wire.queue.enqueue(request("good"))
    await wire.queue.enqueue(request("suspect", attempt=2, strikes=1, alone=True))
    claim = await wire.claim("w1")
    assert claim.alone
    assert [entry.request_id for entry in claim.entries] == ["suspect"]


async def test_busy_worker_is_reserved_and_others_go_on(wire: Wire):
    await wire.register("w1", "w2")
    await wire.queue.enqueue(request("running"))
    await wire.claim("w1")
    await wire.queue.enqueue(request("suspect", attempt=2, strikes=1, alone=True))
    await wire.queue.enqueue(request("good"))
    reserved = await wire.claim("w1")
    assert reserved.reserved
    assert reserved.entries == ()
    assert await wire.claim_ids("w2") == ["good"]
    await wire.finish("w1", "running")
    claim = await wire.claim("w1")
    assert claim.alone
    assert [entry.request_id for entry in claim.entries] == ["suspect"]


async def test_suspects_run_one_after_the_other(wire: Wire):
    await wire.register("w1")
    for name in ("s1", "s2"):
        await wire.queue.enqueue(request(name, attempt=2, strikes=1, alone=True))
    assert await wire.claim_ids("w1") == ["s1"]
    await wire.finish("w1", "s1", 2)
    assert await wire.claim_ids("w1") == ["s2"]
    await wire.finish("w1", "s2", 2)
    await wire.queue.enqueue(request("good"))
    assert await wire.claim_ids("w1") == ["good"]
    assert await wire.leftovers() == {"entries": 1, "running": 1, "inflight": 1}


async def test_next_worker_takes_the_suspects_of_one_that_died_at_once(wire: Wire):
    await wire.register("w1", "w2")
    for name in ("s1", "s2"):
        await wire.queue.enqueue(request(name, attempt=2, strikes=0, alone=True))
    assert await wire.claim_ids("w1") == ["s1"]
    await wire.directory.report_death("w1", "engine_crashed", ["s1"])
    assert await wire.claim_ids("w2") == ["s2"]
