"""F05: a worker sleeps longer than its lease, and wakes when others have done its work."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Measurements
from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import check, kinds, recovery
from tests.support.load import Load, assert_all_exact
from tests.support.stack import Program, Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT_S = 15.0


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


async def test_late_writes_of_a_worker_that_lost_its_lease_are_refused(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    fenced_before = stack.fenced_writes()
    async with Load(client, num_requests) as load:
        await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
        victim = stack.busiest()
        worker_id = stack.worker_id(victim)
        _stop(stack, victim)
        stopped_at = time.monotonic()
        await eventually(lambda: not stack.worker_id(victim), 8.0, "the end of its lease")
        records = await load.ended()
    _go_on(stack, victim)
    # Its next write is tokens or a renewal of its lease, whichever comes first.
    refused_s = await eventually(
        lambda: stack.fenced_writes() > fenced_before, 10.0, "a refused write"
    )
    back_s = await eventually(
        lambda: stack.worker_id(victim) not in {"", worker_id}, 10.0, "the next incarnation"
    )
    assert_all_exact(records)
    found = recovery(records, stopped_at)
    measured.note_recovery("F05 worker SIGSTOP", found, refused_s=refused_s, back_s=back_s)
    assert found.next_token_s <= _LIMIT_S


async def test_control_without_a_fence_the_zombies_tokens_are_shown_again(tmp_path: Path):
    """The zombie wakes while the answer is going on elsewhere, and nothing refuses its tokens."""
    broken = sabotaged_stack(
        tmp_path,
        gateway=["no_token_count", "no_attempt_check"],
        worker=["no_fence"],
        settings={"GALEN_WORKER_BEAT_TIMEOUT_S": "60"},
    )
    async with broken as stack:
        client = Client(stack.port, deadline_s=20.0)
        prompt = "[[n=300 t=0 d=20]]"
        async with Load(client, 4, prompts=[prompt], at_once=4, is_streamed=lambda _: True) as load:
            await eventually(lambda: load.num_streaming == 4, 10.0, "streams")
            victim = stack.busiest()
            _stop(stack, victim)
            lost_before = await stack.metric("galen_gateway_lost_attempts_total")
            assert lost_before == 0
            await eventually(lambda: not stack.worker_id(victim), 8.0, "the end of its lease")
            other = next(worker for worker in stack.workers if worker is not victim)
            await eventually(
                lambda: stack.redis.hlen(f"galen:running:{stack.worker_id(other)}") == 4,
                5.0,
                "all requests elsewhere",
            )
            _go_on(stack, victim)
            records = await load.ended()
        assert kinds(check(records)) & {"repeat", "reorder", "gap", "mixed"}
