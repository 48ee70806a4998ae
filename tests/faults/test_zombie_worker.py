"""F05: a worker sleeps longer than its lease, and wakes when others have done its work."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import Record, check, kinds, recovery
from tests.support.load import Load, assert_all_exact
from tests.support.measurements import Measurements
from tests.support.stack import Program, Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT_S = 15.0
_FAST = "[[n=400 t=0 d=5]]"
_STALE = "galen_gateway_stale_events_total"
_LOST = "galen_gateway_lost_attempts_total"
_CONTROL_ATTEMPTS = 5


def _stop(stack: Stack, worker: Program) -> None:
    """Stop the parent first, so that it judges nobody."""
    worker.send(signal.SIGSTOP)
    engine = stack.engine_of(worker)
    assert engine is not None
    engine.send_signal(signal.SIGSTOP)


def _go_on(stack: Stack, worker: Program) -> None:
    engine = stack.engine_of(worker)
    assert engine is not None
    engine.send_signal(signal.SIGCONT)
    worker.send(signal.SIGCONT)


async def _wake_the_sleepers(
    stack: Stack, client: Client, num_requests: int = 0
) -> tuple[list[Record], float]:
    """Let all workers but one sleep in the middle of fast streams until the last has their work.

    Several sleep, with many streams each, because the first thing that a sleeper does when it
    wakes may also be to renew its lease; then it learns of its end before it has written a token.
    Returns the histories, and when the workers fell asleep.
    """
    sleepers = stack.workers[1:]
    at_once = len(stack.workers) * stack.slots
    num_requests = max(num_requests, at_once)
    async with Load(client, num_requests, prompts=[_FAST], at_once=at_once) as load:
        await eventually(lambda: load.num_streaming >= at_once // 2, 15.0, "streams")
        for worker in sleepers:
            _stop(stack, worker)
        stopped_at = time.monotonic()
        await eventually(
            lambda: not any(stack.worker_id(worker) for worker in sleepers),
            8.0,
            "the end of their leases",
        )
        for worker in sleepers:
            _go_on(stack, worker)
        return await load.ended(), stopped_at


async def test_late_tokens_of_workers_that_lost_their_lease_are_refused(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    refused_before = stack.fenced_writes()
    stale_before = await stack.metric(_STALE)
    ids_before = {worker.name: stack.worker_id(worker) for worker in stack.workers[1:]}
    records, stopped_at = await _wake_the_sleepers(stack, client, num_requests)
    back_s = await eventually(
        lambda: all(
            stack.worker_id(worker) not in {"", ids_before[worker.name]}
            for worker in stack.workers[1:]
        ),
        10.0,
        "the next incarnations",
    )
    found = recovery(records, stopped_at)
    refused = stack.fenced_writes() - refused_before
    measured.note_recovery("F05 workers SIGSTOP", found, refused=refused, back_s=back_s)
    assert_all_exact(records)
    assert refused > 0

    async def is_told() -> bool:
        return await stack.metric("galen_gateway_fenced_writes_total") == stack.fenced_writes()

    await eventually(is_told, 5.0, "the refused writes among the metrics")
    assert await stack.metric(_STALE) == stale_before
    assert found.terminal_s <= _LIMIT_S


async def test_control_without_the_fence_alone_late_tokens_reach_the_gateway(tmp_path: Path):
    """It drops them by their attempt number: the second protection, which holds by itself."""
    async with sabotaged_stack(tmp_path, worker=["no_fence"], num_workers=4) as stack:
        records, _ = await _wake_the_sleepers(stack, Client(stack.port))
        assert_all_exact(records)
        assert stack.fenced_writes() == 0
        assert await stack.metric(_STALE) > 0


async def test_control_without_any_fence_the_zombies_tokens_are_shown_again(tmp_path: Path):
    """The zombie wakes while the answer is going on elsewhere, and nothing refuses its tokens."""
    broken = sabotaged_stack(
        tmp_path,
        gateway=["no_token_count", "no_attempt_check"],
        worker=["no_fence"],
        settings={"GALEN_WORKER_BEAT_TIMEOUT_S": "60"},
    )
    async with broken as stack:
        client = Client(stack.port, deadline_s=20.0)
        for _ in range(_CONTROL_ATTEMPTS):
            records = await _wake_one_among_the_living(stack, client)
            if kinds(check(records)) & {"repeat", "reorder", "gap", "mixed"}:
                return
            await eventually(lambda: all(map(stack.worker_id, stack.workers)), 10.0, "both workers")
        pytest.fail(f"in {_CONTROL_ATTEMPTS} attempts no token was shown twice")


async def _wake_one_among_the_living(stack: Stack, client: Client) -> list[Record]:
    """Let the busiest worker sleep until all its streams go on elsewhere; returns the histories.

    It may renew its lease first when it wakes, and then shows nothing: see `_wake_the_sleepers`.
    """
    prompt = "[[n=300 t=0 d=20]]"
    lost_before = await stack.metric(_LOST)
    async with Load(client, 4, prompts=[prompt], at_once=4, is_streamed=lambda _: True) as load:
        await eventually(lambda: load.num_streaming == 4, 10.0, "streams")
        victim = stack.busiest()
        _stop(stack, victim)
        assert await stack.metric(_LOST) == lost_before
        await eventually(lambda: not stack.worker_id(victim), 8.0, "the end of its lease")
        other = next(worker for worker in stack.workers if worker is not victim)
        await eventually(
            lambda: stack.redis.hlen(f"galen:running:{stack.worker_id(other)}") == 4,
            5.0,
            "all requests elsewhere",
        )
        _go_on(stack, victim)
        return await load.ended()
