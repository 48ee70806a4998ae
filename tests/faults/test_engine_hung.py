"""F04: an engine stops moving, with its process still there."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import Record, check, kinds, recovery
from tests.support.load import Load, assert_all_exact, assert_correct
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import NeverCameError, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_NOT_READY_S = 10.0
_LIMIT_S = 15.0
_STALL = "[[n=64 t=0 d=20 stall=3]]"
_QUICK = {"GALEN_WORKER_STEP_TIMEOUT_S": "1.5", "GALEN_WORKER_BEAT_TIMEOUT_S": "2"}


async def test_stopped_engine_is_left_out_killed_and_started_again(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests) as load:
        await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
        victim = stack.busiest()
        stopped = stack.engine_of(victim)
        assert stopped is not None
        worker_id = stack.worker_id(victim)
        stopped.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        not_ready_s = await eventually(
            lambda: stack.worker_id(victim) != worker_id, _NOT_READY_S, "the end of its lease"
        )
        records = await load.ended()
    respawned_s = await eventually(
        lambda: stack.worker_id(victim) not in {"", worker_id}, 30.0, "the next engine"
    )
    engine = stack.engine_of(victim)
    assert engine is not None
    assert engine.pid != stopped.pid
    assert_all_exact(records)
    found = recovery(records, stopped_at)
    measured.note_recovery(
        "F04 engine SIGSTOP", found, not_ready_s=not_ready_s, respawned_s=respawned_s
    )
    assert found.next_token_s <= _LIMIT_S


async def test_request_that_hangs_the_engine_ends_and_so_does_every_other(
    tmp_path: Path, measured: Measurements, num_requests: int, repetition: int
):
    """Who was beside it in both of its engines has two strikes, too, and ends with an error."""
    async with Stack(tmp_path, settings=_QUICK) as stack:
        client = Client(stack.port)
        async with Load(client, num_requests) as load:
            await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
            sent_at = time.monotonic()
            hung = await client.ask("[[n=64 t=0 d=20 hang=3]]", stream=True)
            records = await load.ended()
        assert_correct([hung, *records])
        await stack.healthy()
        found = recovery(records, sent_at)
        ended = hung.terminal
        assert ended is not None
        measured.note_recovery(
            "F04 [[hang]]", found, hung_s=ended.at - sent_at, hung_code=hung.error_code
        )
        assert hung.error_code == "worker_lost"
        beside = [record for record in records if not record.is_complete]
        assert {record.error_code for record in beside} <= {"worker_lost"}
        assert len(beside) < stack.slots
        assert ended.at - sent_at <= _LIMIT_S
        assert found.terminal_s <= _LIMIT_S


async def test_engine_that_stops_stepping_is_replaced_within_the_default_limits(
    tmp_path: Path, measured: Measurements, num_requests: int, repetition: int
):
    """Its event loop turns on, so that only the missing steps give it away."""
    async with Stack(tmp_path) as stack:
        client = Client(stack.port)
        stalled: list[Record] = []
        async with Load(client, num_requests) as load:
            await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
            asking = asyncio.create_task(client.ask(_STALL, into=stalled))
            await eventually(lambda: stalled and stalled[0].num_tokens == 4, 10.0, "its last step")
            stalled_at = time.monotonic()
            victim = await stack.holder_soon(stalled[0].request_id)
            worker_id, engine = stack.worker_id(victim), stack.engine_of(victim)
            not_ready_s = await eventually(
                lambda: stack.worker_id(victim) != worker_id, _LIMIT_S, "the end of its lease"
            )
            records = await load.ended()
            await asking
        await stack.healthy()
        next_engine = stack.engine_of(victim)
        assert engine is not None
        assert next_engine is not None
        assert next_engine.pid != engine.pid
        found = recovery(records, stalled_at)
        stalled_s = stalled[0].events[-1].at - stalled_at
        measured.note_recovery(
            "F04 [[stall]], default limits", found, not_ready_s=not_ready_s,
            stalled_s=stalled_s,
        )  # fmt: skip
        assert_all_exact([*stalled, *records])
        assert found.terminal_s <= _LIMIT_S
        assert stalled_s <= _LIMIT_S


async def test_control_a_stopped_engine_stays_when_nobody_watches_it(tmp_path: Path):
    broken = sabotaged_stack(
        tmp_path, gateway=["no_reaping"], worker=["no_hang_detection"], settings=_QUICK
    )
    async with broken as stack:
        client = Client(stack.port, deadline_s=6.0)
        async with Load(client, 8, at_once=8) as load:
            await eventually(lambda: load.num_streaming >= 4, 10.0, "streams")
            victim = stack.busiest()
            engine = stack.engine_of(victim)
            assert engine is not None
            worker_id = stack.worker_id(victim)
            engine.send_signal(signal.SIGSTOP)
            records = await load.ended()
        assert kinds(check(records)) == {"lost"}
        with pytest.raises(NeverCameError):
            await eventually(lambda: stack.worker_id(victim) != worker_id, 1.0)
