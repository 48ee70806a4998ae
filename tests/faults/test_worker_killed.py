"""F01, F02: a worker is killed before its first token, or in the middle of its answers."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import Record, check, kinds, recovery
from tests.support.load import Load, assert_all_exact
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT_S = 5.0
_FIRST_TOKEN_S = 1.5
_SLOW_START = "[[n=16 t=1500 d=10]]"
_PROBE = "[[n=160 t=0 d=10]]"


async def test_engine_killed_before_the_first_token_costs_no_answer(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests, prompts=[_SLOW_START]) as load:
        await eventually(lambda: stack.num_running() >= 20, 10.0, "running requests")
        killed_at = stack.kill_engine(stack.busiest())
        records = await load.ended()
    assert_all_exact(records)
    found = recovery(records, killed_at)
    measured.note_recovery("F01 engine kill -9", found)
    assert found.next_token_s <= _FIRST_TOKEN_S + _LIMIT_S
    assert await stack.metric("galen_gateway_lost_attempts_total") > 0
    assert await stack.metric('galen_gateway_attempts_total{attempt="again"}') > 0


async def test_worker_killed_with_its_parent_before_the_first_token_costs_no_answer(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests, prompts=[_SLOW_START]) as load:
        await eventually(lambda: stack.num_running() >= 20, 10.0, "running requests")
        victim = stack.busiest()
        killed_at = stack.kill_worker(victim)
        records = await load.ended()
    victim.start()
    assert_all_exact(records)
    found = recovery(records, killed_at)
    measured.note_recovery("F01 worker kill -9", found)
    assert found.next_token_s <= _FIRST_TOKEN_S + _LIMIT_S


@pytest.mark.parametrize("num_shown", [1, 10, 100])
@pytest.mark.parametrize("whole_worker", [False, True], ids=["engine", "worker"])
async def test_worker_killed_in_the_middle_shows_one_uninterrupted_answer(  # noqa: PLR0917
    stack: Stack,
    client: Client,
    measured: Measurements,
    num_requests: int,
    repetition: int,
    num_shown: int,
    whole_worker: bool,
):
    shown = asyncio.Event()

    def count(record: Record) -> None:
        if record.num_tokens >= num_shown:
            shown.set()

    async with Load(client, num_requests) as load:
        probe: list[Record] = []
        asking = asyncio.create_task(client.ask(_PROBE, on_token=count, into=probe))
        await asyncio.wait_for(shown.wait(), 20.0)
        victim = await stack.holder_soon(probe[0].request_id)
        kill = stack.kill_worker if whole_worker else stack.kill_engine
        killed_at = kill(victim)
        await asking
        records = [*await load.ended(), *probe]
    if whole_worker:
        victim.start()
    assert_all_exact(records)
    found = recovery(records, killed_at)
    of_probe = recovery(probe, killed_at)
    name = "worker" if whole_worker else "engine"
    measured.note_recovery(
        f"F02 {name} kill -9, {num_shown} tokens", found, probe_s=of_probe.next_token_s
    )
    assert of_probe.num_open == 1, "the probe was over before its worker died"
    assert found.next_token_s <= _LIMIT_S


async def test_control_requests_of_a_dead_worker_are_lost_when_nobody_takes_them(tmp_path: Path):
    broken = sabotaged_stack(tmp_path, gateway=["no_reaping"], worker=["no_death_report"])
    async with broken as stack:
        client = Client(stack.port, deadline_s=9.0)
        async with Load(client, 8, prompts=[_SLOW_START], at_once=8) as load:
            await eventually(lambda: stack.num_running() == 8, 10.0, "running requests")
            stack.kill_engine(stack.busiest())
            records = await load.ended()
    assert kinds(check(records)) == {"lost"}


async def test_control_a_restart_from_the_beginning_is_seen_as_a_repeat(tmp_path: Path):
    async with sabotaged_stack(tmp_path, gateway=["no_resume"]) as stack:
        client = Client(stack.port, deadline_s=9.0)
        async with Load(client, 8, at_once=8, is_streamed=lambda _: True) as load:
            await eventually(lambda: load.num_streaming == 8, 10.0, "streams")
            stack.kill_engine(stack.busiest())
            records = await load.ended()
    assert "repeat" in kinds(check(records))
