"""Requests that go to the worker which may know their image, and what becomes of them."""

import asyncio
import time

import pytest

from services.protocol import keys
from services.protocol.messages import Lane
from services.protocol.request_queue import LOOK_AHEAD, Candidate, QueueFull
from tests.protocol.parties import GATEWAY, MODEL, Wire, finished, request
from tests.support.waiting import eventually

SLOTS = 2
ONE_FIRST = (Candidate("w1", SLOTS), Candidate("w2", SLOTS))


@pytest.fixture(autouse=True)
async def two_idle_workers(wire: Wire) -> None:
    await wire.register("w1", "w2")
    for worker in ("w1", "w2"):
        await wire.claim(worker, SLOTS)


async def send(
    wire: Wire,
    *names: str,
    lane: Lane = "interactive",
    tenant: str = "t1",
    ranked: tuple[Candidate, ...] = ONE_FIRST,
) -> None:
    for name in names:
        await wire.queue.enqueue(request(name, lane=lane, tenant=tenant), candidates=ranked)


async def claim_all(wire: Wire, worker: str) -> list[str]:
    return await wire.claim_ids(worker, SLOTS)


async def waiting(wire: Wire, worker: str) -> int:
    counts = await wire.client.hmget(keys.affine(worker), "interactive", "batch")
    return sum(int(count or 0) for count in counts)


async def a_millisecond(wire: Wire) -> None:
    """Let it pass on Redis's clock: it is what the age of requests is told by."""
    seconds, micros = await wire.client.time()
    began_ms = now_ms = seconds * 1000 + micros // 1000
    while now_ms == began_ms:
        seconds, micros = await wire.client.time()
        now_ms = seconds * 1000 + micros // 1000


async def fill(wire: Wire, worker: str) -> list[str]:
    """Give a worker as many other requests as it runs."""
    names = [f"{worker}-{index}" for index in range(SLOTS)]
    for name in names:
        await wire.queue.enqueue(request(name))
    assert await claim_all(wire, worker) == names
    return names


async def test_request_waits_for_the_worker_that_was_named_first(wire: Wire):
    await send(wire, "r1")
    assert await claim_all(wire, "w2") == []
    assert await claim_all(wire, "w1") == ["r1"]


async def test_it_wakes_that_worker_and_no_other(wire: Wire):
    await send(wire, "r1")
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) == 0
    asked = time.monotonic()
    await wire.worker_queue().wait_for_work("w1")
    assert time.monotonic() - asked < keys.BLOCK_S / 2


@pytest.mark.parametrize(
    ("running", "first"),
    # ceil(1.25 * average), the new request counted: 1 of 1, 2 of 2, 2 of 3, 3 of 4
    [
        ((0, 0), "w1"),
        ((1, 0), "w1"),
        ((2, 0), "w2"),
        ((2, 1), "w1"),
        ((1, 2), "w1"),
        ((3, 0), "w2"),
    ],
)
async def test_worker_gets_no_more_than_its_share(wire: Wire, running: tuple[int, int], first: str):
    for worker, count in zip(("w1", "w2"), running, strict=True):
        for index in range(count):
            await wire.queue.enqueue(request(f"{worker}-{index}"))
        assert len(await wire.claim_ids(worker, count + 1)) == count
    ranked = (Candidate("w1", 8), Candidate("w2", 8))
    await send(wire, "r1", ranked=ranked)
    assert await waiting(wire, first) == 1


async def test_what_waits_counts_as_load(wire: Wire):
    ranked = (Candidate("w1", 8), Candidate("w2", 8))
    await send(wire, *(f"r{index}" for index in range(8)), ranked=ranked)
    assert (await waiting(wire, "w1"), await waiting(wire, "w2")) == (5, 3)


async def test_request_goes_to_the_shared_lane_where_all_have_enough_waiting(wire: Wire):
    for worker in ("w1", "w2"):
        await fill(wire, worker)
    most = 2 * (LOOK_AHEAD - 1) * SLOTS
    await send(wire, *(f"r{index}" for index in range(most + 1)))
    assert await waiting(wire, "w1") + await waiting(wire, "w2") == most
    assert await wire.client.zcard(keys.turns(MODEL, "interactive")) == 1


async def test_only_one_worker_means_the_shared_lane(wire: Wire):
    await send(wire, "r1", ranked=ONE_FIRST[:1])
    await wire.directory.report_death("w2", "engine_died")
    await send(wire, "r2")
    assert await wire.client.exists(keys.affine_workers(MODEL)) == 0
    assert await claim_all(wire, "w1") == ["r1", "r2"]


async def test_later_attempts_and_suspects_have_no_worker_of_their_own(wire: Wire):
    await wire.queue.enqueue(request("r1", attempt=2), candidates=ONE_FIRST)
    await wire.queue.enqueue(request("s1", attempt=2, alone=True), candidates=ONE_FIRST)
    assert await wire.client.exists(keys.affine_workers(MODEL)) == 0


async def test_full_lane_counts_what_waits_for_workers(wire: Wire):
    for index in range(2):
        sent = request(f"r{index}")
        assert await wire.queue.enqueue(sent, max_waiting=2, candidates=ONE_FIRST) is None
    refused = await wire.queue.enqueue(request("r2"), max_waiting=2, candidates=ONE_FIRST)
    assert refused == QueueFull(2)
    assert await wire.directory.waiting() == {keys.depth_field(MODEL, "interactive"): 2}


# --- order ---


async def test_interactive_goes_before_batch_in_own_lanes_too(wire: Wire):
    await send(wire, "b1", lane="batch")
    await wire.queue.enqueue(request("shared"))
    await a_millisecond(wire)
    await send(wire, "i1")
    assert await wire.claim_ids("w1") == ["shared", "i1", "b1"]


async def test_batch_limit_holds_in_own_lanes_too(wire: Wire):
    await send(wire, "b1", "b2", lane="batch", ranked=(Candidate("w1", 8), Candidate("w2", 8)))
    claim = await wire.worker_queue().claim("w1", 8, 1)
    assert [entry.request_id for entry in claim.entries] == ["b1"]


async def test_older_request_goes_first_whichever_lane_it_is_in(wire: Wire):
    ranked = (Candidate("w1", 8), Candidate("w2", 8))
    for name in ("own 1", "shared 1", "own 2", "shared 2"):
        await send(wire, name, ranked=ranked if name.startswith("own") else ())
        await a_millisecond(wire)
    got = [(await wire.claim_ids("w1", 1))[0] for _ in range(4)]
    assert got == ["own 1", "shared 1", "own 2", "shared 2"]


async def test_nobody_passes_by_what_another_tenant_has_waiting(wire: Wire):
    for name in ("a1", "a2"):
        await wire.queue.enqueue(request(name, tenant="a"))
    await wire.queue.enqueue(request("b1", tenant="b"))
    await send(wire, "a3", tenant="a")
    assert await waiting(wire, "w1") == 0
    assert await wire.claim_ids("w1") == ["a1", "b1", "a2", "a3"]
    await send(wire, "a4", tenant="a")  # nobody waits any more
    assert await waiting(wire, "w2") == 1  # w1 runs four


async def test_own_request_of_a_tenant_is_nothing_to_be_passed_by(wire: Wire):
    await wire.queue.enqueue(request("a1", tenant="a"))
    await send(wire, "a2", tenant="a")
    assert await waiting(wire, "w1") == 1


# --- no slot stays free ---


async def test_idle_worker_takes_what_waits_for_a_full_one(wire: Wire):
    await fill(wire, "w1")
    await fill(wire, "w2")
    await send(wire, "r1", "r2")
    assert await waiting(wire, "w1") > 0
    await wire.finish("w2", "w2-0")
    await wire.finish("w2", "w2-1")
    assert await claim_all(wire, "w2") == ["r1", "r2"]
    assert await waiting(wire, "w1") == await waiting(wire, "w2") == 0


async def test_idle_worker_is_woken_by_what_a_full_one_cannot_take(wire: Wire):
    ranked = (Candidate("w1", 8), Candidate("w2", 8))
    await send(wire, "r1", "r2", ranked=ranked)
    sleeping = asyncio.create_task(wire.worker_queue().wait_for_work("w2"))
    await eventually(lambda: _is_blocked(wire), 2.0, "a blocked client")
    asked = time.monotonic()
    assert await wire.claim_ids("w1", 1) == ["r1"]
    await sleeping
    assert time.monotonic() - asked < keys.BLOCK_S / 2
    assert await wire.claim_ids("w2") == ["r2"]


async def test_full_workers_request_wakes_whoever_is_idle(wire: Wire):
    await wire.queue.enqueue(request("w1-0"))
    await wire.claim("w1", 1)  # room for one
    await send(wire, "r1")
    assert await waiting(wire, "w1") == 1
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) >= 1
    assert await wire.client.exists(keys.wake("w1")) == 0
    assert await wire.claim_ids("w2") == ["r1"]


async def test_batch_for_a_worker_without_room_for_batch_is_taken_by_another(wire: Wire):
    await wire.worker_queue().claim("w1", SLOTS, 0)
    await send(wire, "b1", lane="batch")
    assert await waiting(wire, "w1") == 1
    assert await wire.claim_ids("w2") == ["b1"]


async def test_worker_that_runs_a_suspect_keeps_nobody_waiting(wire: Wire):
    await send(wire, "r1")
    await wire.queue.enqueue(request("suspect", attempt=2, alone=True))
    assert (await wire.claim("w1")).alone
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) >= 1
    assert await wire.claim_ids("w2") == ["r1"]


async def _is_blocked(wire: Wire) -> bool:
    return (await wire.client.info("clients"))["blocked_clients"] > 0


# --- ends ---


async def test_stolen_request_ends_like_any_other(wire: Wire):
    await wire.worker_queue().claim("w1", 0, 0)
    await send(wire, "r1")
    assert await wire.claim_ids("w2") == ["r1"]
    await wire.finish("w2", "r1")
    assert await wire.events() == [finished("r1", 1, 0)]
    assert await wire.leftovers() == {}


async def test_revoked_request_leaves_the_workers_lane(wire: Wire):
    await send(wire, "r1")
    assert await wire.queue.revoke(GATEWAY, "r1") == "QUEUED"
    assert await waiting(wire, "w1") == 0
    assert await wire.client.exists(keys.affine_workers(MODEL)) == 0
    assert await claim_all(wire, "w1") == []
    assert await wire.leftovers() == {}


@pytest.mark.parametrize("end", ["death", "lease", "cordon"])
async def test_what_waits_for_a_worker_that_ends_goes_to_the_shared_lane(wire: Wire, end: str):
    await send(wire, "b1", lane="batch")
    await send(wire, "i1", "i2")
    assert await waiting(wire, "w1") == 3
    before = await wire.directory.waiting()
    match end:
        case "death":
            await wire.directory.report_death("w1", "engine_died")
        case "lease":
            await wire.let_lease_end("w1")
            await wire.directory.reap_expired()
        case _:
            await wire.worker_queue().close_lanes("w1")
    assert await wire.directory.waiting() == before
    assert await wire.client.llen(keys.bell(MODEL, "interactive")) >= 1
    assert await wire.client.llen(keys.bell(MODEL, "batch")) >= 1
    assert await wire.queue.revoke(GATEWAY, "i2") == "QUEUED"
    assert await wire.claim_ids("w2") == ["i1", "b1"]
    for name in ("i1", "b1"):
        await wire.finish("w2", name)
    assert await wire.leftovers() == {}


async def test_nothing_waits_for_a_cordoned_worker_until_it_claims_again(wire: Wire):
    await wire.register("w3")
    await wire.claim("w3", SLOTS)
    ranked = (*ONE_FIRST, Candidate("w3", SLOTS))
    await wire.worker_queue().close_lanes("w1")
    await send(wire, "r1", ranked=ranked)
    assert (await waiting(wire, "w1"), await waiting(wire, "w2")) == (0, 1)
    await claim_all(wire, "w1")
    await send(wire, "r2", ranked=ranked)
    assert await waiting(wire, "w1") == 1


async def test_dead_worker_leaves_no_keys_behind(wire: Wire):
    await send(wire, "r1")
    await wire.worker_queue().wake("w1")
    await wire.directory.report_death("w1", "engine_died")
    assert [key async for key in wire.client.scan_iter("*w1*")] == []


async def test_worker_without_a_lease_closes_nothing(wire: Wire):
    await wire.directory.report_death("w1", "engine_died")
    await wire.worker_queue().close_lanes("w1")
    assert await wire.client.exists(keys.affine("w1")) == 0


async def test_count_that_drifted_is_set_right(wire: Wire):
    await send(wire, "r1", "r2", ranked=(Candidate("w1", 8), Candidate("w2", 8)))
    await wire.client.delete(keys.work(MODEL, "interactive.w1", "t1"))  # as if it had expired
    assert await claim_all(wire, "w1") == []
    assert await waiting(wire, "w1") == 0
    assert await wire.client.exists(keys.affine_workers(MODEL)) == 0
    assert await wire.directory.waiting() == {keys.depth_field(MODEL, "interactive"): 0}
