"""F17: a worker is told to stop while it works."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import check, kinds, recovery
from tests.support.load import Load, assert_all_exact
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_EXIT_S = 35.0
_LONG = "[[n=300 t=0 d=20]]"
"""6 s: longer than the drain of the worker that is told to stop."""


async def test_stopped_worker_finishes_what_it_runs_and_costs_no_error(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests) as load:
        await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
        victim = stack.busiest()
        victim.send(signal.SIGTERM)
        told_at = time.monotonic()
        code = await stack.exit_code_of(victim, _EXIT_S)
        exit_s = time.monotonic() - told_at
        records = await load.ended()
    victim.start()
    assert code == 0
    assert_all_exact(records)
    measured.note_recovery("F17 worker SIGTERM", recovery(records, told_at), exit_s=exit_s)


async def test_stopped_worker_hands_on_what_it_cannot_finish_in_time(
    stack: Stack, client: Client, measured: Measurements, repetition: int
):
    hasty = stack.add_worker("hasty", GALEN_WORKER_DRAIN_TIMEOUT_S="1")
    try:
        await stack.healthy()
        lost_before = await stack.metric("galen_gateway_lost_attempts_total")
        full = len(stack.workers) * stack.slots  # else the others may take everything
        async with Load(client, full, prompts=[_LONG], at_once=full) as load:
            await eventually(
                lambda: stack.redis.hlen(f"galen:running:{stack.worker_id(hasty)}") > 0,
                10.0,
                "a request of the hasty worker",
            )
            await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
            hasty.send(signal.SIGTERM)
            told_at = time.monotonic()
            code = await stack.exit_code_of(hasty, 5.0)
            exit_s = time.monotonic() - told_at
            records = await load.ended()
    finally:
        if hasty.exit_code is None:
            stack.kill_worker(hasty)
        stack.workers.remove(hasty)
    assert code == 0
    assert_all_exact(records)
    assert await stack.metric("galen_gateway_lost_attempts_total") > lost_before
    found = recovery(records, told_at)
    measured.note_recovery("F17 worker SIGTERM, handed on", found, exit_s=exit_s)
    assert found.next_token_s <= 5.0


async def test_control_requests_of_a_worker_that_just_ends_are_lost(tmp_path: Path):
    broken = sabotaged_stack(tmp_path, gateway=["no_reaping"], worker=["no_drain"])
    async with broken as stack:
        client = Client(stack.port, deadline_s=8.0)
        async with Load(client, 8, at_once=8) as load:
            await eventually(lambda: load.num_streaming >= 4, 10.0, "streams")
            victim = stack.busiest()
            victim.send(signal.SIGTERM)
            await stack.exit_code_of(victim, _EXIT_S)
            records = await load.ended()
        assert "lost" in kinds(check(records))
