"""What a worker claims, and when; a real Redis, the fake engine, a gateway played by hand."""

import time
from collections.abc import AsyncIterator

import pytest
from pydantic import ValidationError

from services.protocol import keys
from services.protocol.request_queue import Candidate
from services.worker.loop import Worker
from services.worker.settings import WorkerSettings
from tests.support.waiting import eventually
from tests.worker.played_gateway import (
    LIMIT_S,
    MODEL,
    PlayedGateway,
    played_gateway,
    request,
    running_worker,
)


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[PlayedGateway]:
    async with played_gateway(redis_url) as each:
        yield each


async def test_worker_full_of_batch_takes_an_interactive_request_at_once(
    gateway: PlayedGateway, redis_url: str
):
    async with running_worker(redis_url, slots=4, interactive_slots=1) as worker:
        for index in range(6):
            await gateway.send(f"b{index}")
        await eventually(lambda: _runs(gateway, worker, 3), LIMIT_S, "three batch requests")
        asked = time.monotonic()
        await gateway.send("i0", prompt="[[n=1]]", lane="interactive")
        await eventually(lambda: gateway.ended("i0"), LIMIT_S, "the interactive answer")
        assert time.monotonic() - asked < keys.BLOCK_S / 2
        assert await gateway.num_running(worker) == 3
        assert await gateway.directory.waiting() == {
            f"{MODEL}|batch": 3,
            f"{MODEL}|interactive": 0,
        }


async def test_worker_that_waits_with_a_reserved_slot_does_not_spin(
    gateway: PlayedGateway, redis_url: str
):
    async with running_worker(redis_url, slots=2, interactive_slots=1) as worker:
        for index in range(3):
            await gateway.send(f"b{index}")
        await eventually(lambda: _runs(gateway, worker, 1), LIMIT_S, "a batch request")
        before = await _num_scripts_run(gateway)
        await eventually(lambda: len(gateway.heard.get("b0", ())) >= 60, LIMIT_S, "60 tokens")
        # Besides a write per token, in 1.2 s: two renewals and as many claims.
        assert await _num_scripts_run(gateway) - before < len(gateway.heard["b0"]) + 15


async def test_end_of_a_batch_request_is_followed_by_the_next_at_once(
    gateway: PlayedGateway, redis_url: str
):
    async with running_worker(redis_url, slots=4, interactive_slots=3):
        names = [f"b{index}" for index in range(20)]
        asked = time.monotonic()
        for name in names:
            await gateway.send(name, prompt="[[n=2]]")
        await eventually(lambda: gateway.ended(*names), LIMIT_S, "all answers")
        assert time.monotonic() - asked < 5 * keys.BLOCK_S  # 20, if each waited for the bell


async def test_batch_that_one_worker_has_no_room_for_wakes_another(
    gateway: PlayedGateway, redis_url: str
):
    async with (
        running_worker(redis_url, slots=2, interactive_slots=1, name="a") as one,
        running_worker(redis_url, slots=2, interactive_slots=1, name="b") as other,
    ):
        for index in range(3):
            await gateway.send(f"b{index}")
        for worker in (one, other):
            await eventually(lambda w=worker: _runs(gateway, w, 1), LIMIT_S, "a batch request")


# --- own lanes ---


async def test_requests_by_affinity_are_answered_whatever_their_worker_does(
    gateway: PlayedGateway, redis_url: str
):
    async with (
        running_worker(redis_url, slots=2, name="a") as one,
        running_worker(redis_url, slots=2, name="b") as other,
    ):
        ranked = [Candidate(one.worker_id, 2), Candidate(other.worker_id, 2)]
        names = [f"i{index}" for index in range(12)]
        for name in names:
            sent = request(name, prompt="[[n=4 d=20]]")
            await gateway.queue.enqueue(sent, candidates=ranked)
        asked = time.monotonic()
        await eventually(lambda: gateway.ended(*names), LIMIT_S, "all answers")
        assert time.monotonic() - asked < 2 * keys.BLOCK_S


async def test_cordoned_worker_leaves_what_waits_for_it_to_others_at_once(
    gateway: PlayedGateway, redis_url: str
):
    async with running_worker(redis_url, slots=2, interactive_slots=0, name="a") as one:
        for name in ("b0", "b1"):
            await gateway.send(name)
        await eventually(lambda: _runs(gateway, one, 2), LIMIT_S, "a full worker")
        async with running_worker(redis_url, slots=2, name="b") as other:
            other.cordon()
            await eventually(lambda: _is_closed(gateway, other), LIMIT_S, "closed lanes")
            ranked = [Candidate(worker.worker_id, 2) for worker in (one, other)]
            await gateway.queue.enqueue(request("i0", prompt="[[n=1]]"), candidates=ranked)
            one.cordon()
            await eventually(lambda: _is_closed(gateway, one), LIMIT_S, "closed lanes")
        async with running_worker(redis_url, slots=2, name="c"):
            await eventually(lambda: gateway.ended("i0"), LIMIT_S, "the answer")


async def _is_closed(gateway: PlayedGateway, worker: Worker) -> bool:
    key = keys.affine(worker.worker_id)
    return await gateway.wire.execute_command("HGET", key, "room.batch") == b"-1"


# --- settings ---


def test_batch_must_have_a_slot():
    with pytest.raises(ValidationError, match="leave none for the batch lane"):
        WorkerSettings(slots=4, interactive_slots=4)


async def _runs(gateway: PlayedGateway, worker: Worker, count: int) -> bool:
    return await gateway.num_running(worker) == count


async def _num_scripts_run(gateway: PlayedGateway) -> int:
    stats = (await gateway.wire.execute_command("INFO", "commandstats")).decode()
    line = next(each for each in stats.splitlines() if each.startswith("cmdstat_evalsha"))
    return int(line.partition("calls=")[2].partition(",")[0])
