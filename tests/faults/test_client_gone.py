"""F13: clients go away, in every way and at every moment; nothing runs on for them."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client, How, Leaving
from tests.support.load import assert_all_exact, assert_correct
from tests.support.measurements import Measurements
from tests.support.proxy import Proxy
from tests.support.stack import Stack
from tests.support.waiting import NeverCameError, eventually

if TYPE_CHECKING:
    from tests.support.history import Record

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LIMIT_S = 1.0
_LONG = "[[n=6000 t=0 d=20]]"
_NO_TOKEN_YET = "[[n=6000 t=60000 d=20]]"
_STEPS = "galen_worker_engine_steps_total"
_RUNNING = "galen_worker_running_requests"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def roomy_stack(
    tmp_path_factory: pytest.TempPathFactory, num_requests: int
) -> AsyncIterator[Stack]:
    """As the shared one, with a slot for every client."""
    folder = tmp_path_factory.mktemp("roomy-stack")
    async with Stack(folder, num_workers=2, slots=max(16, -(-num_requests // 2))) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(roomy_stack: Stack) -> AsyncIterator[Stack]:
    """Healthy before a test, and asserted to heal by itself after it."""
    await roomy_stack.healthy()
    yield roomy_stack
    await roomy_stack.healthy()


async def _nothing_runs(stack: Stack) -> bool:
    """Whether queue, workers and engines are empty."""
    return (
        stack.num_running() == 0
        and stack.num_waiting() == 0
        and await stack.worker_metric(_RUNNING) == 0
    )


async def _assert_engines_stand_still(stack: Stack) -> None:
    """An engine that ran on for nobody would go on counting steps."""
    before = await stack.worker_metric(_STEPS)
    assert await _num_steps_change(stack, before) == 0


async def _num_steps_change(stack: Stack, before: float) -> float:
    """Steps since `before`, looked at for a fifth of a second (10 tokens of a running request)."""

    async def has_changed() -> bool:
        return await stack.worker_metric(_STEPS) != before

    try:
        await eventually(has_changed, 0.2)
    except NeverCameError:
        return 0.0
    return await stack.worker_metric(_STEPS) - before


@pytest.mark.parametrize("how", ["FIN", "RST", "HALF"])
@pytest.mark.parametrize("num_shown", [0, 1, 50])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_client_that_leaves_stops_its_generation(  # noqa: PLR0917 - pytest's fixtures
    stack: Stack,
    client: Client,
    measured: Measurements,
    num_requests: int,
    repetition: int,
    how: How,
    num_shown: int,
    stream: bool,
):
    leave = asyncio.Event()
    at_once = num_requests
    prompt = _LONG if num_shown else _NO_TOKEN_YET
    asking = [
        asyncio.create_task(client.ask(prompt, stream=stream, leaving=Leaving(how, when=leave)))
        for _ in range(at_once)
    ]
    await eventually(lambda: stack.num_running() == at_once, 10.0, "running requests")
    if num_shown and stream:
        await eventually(
            lambda: all(r.num_tokens >= num_shown for r in client.records), 20.0, "tokens"
        )
    elif num_shown:
        steps = await stack.worker_metric(_STEPS)

        async def has_stepped() -> bool:
            return await stack.worker_metric(_STEPS) >= steps + num_shown

        await eventually(has_stepped, 10.0, "engine steps")
    leave.set()
    records = await asyncio.gather(*asking)
    left_at = max(record.left or 0.0 for record in records)
    await eventually(lambda: _nothing_runs(stack), _LIMIT_S, "idle engines")
    stopped_s = time.monotonic() - left_at
    measured.note(
        f"F13 {how} {'stream' if stream else 'whole'} {num_shown} tokens",
        clients=at_once, stopped_s=stopped_s,
    )  # fmt: skip
    assert_correct(records)
    await _assert_engines_stand_still(stack)


async def test_connections_that_a_proxy_cuts_stop_their_generation(
    stack: Stack, measured: Measurements, num_requests: int, repetition: int
):
    async with Proxy(stack.port) as proxy:
        client = Client(proxy.port)
        asking = [
            asyncio.create_task(client.ask(_LONG, stream=i % 2 == 0)) for i in range(num_requests)
        ]
        await eventually(lambda: stack.num_running() == num_requests, 10.0, "running requests")
        proxy.cut()
        cut_at = time.monotonic()
        await eventually(lambda: _nothing_runs(stack), _LIMIT_S, "idle engines")
        stopped_s = time.monotonic() - cut_at
        await asyncio.gather(*asking)
    measured.note("F13 cut by a proxy", clients=num_requests, stopped_s=stopped_s)
    await _assert_engines_stand_still(stack)


@pytest.mark.parametrize("how", ["FIN", "RST", "HALF"])
async def test_client_that_leaves_while_it_waits_never_reaches_an_engine(
    stack: Stack, client: Client, measured: Measurements, repetition: int, how: How
):
    num_slots = len(stack.workers) * stack.slots
    leave_the_slots, leave_the_queue = asyncio.Event(), asyncio.Event()
    running = [
        asyncio.create_task(
            client.ask(
                _NO_TOKEN_YET, stream=i % 2 == 0, leaving=Leaving("FIN", when=leave_the_slots)
            )
        )
        for i in range(num_slots)
    ]
    await eventually(lambda: stack.num_running() == num_slots, 10.0, "full slots")
    waiting = [
        asyncio.create_task(
            client.ask("[[n=4]]", stream=i % 2 == 0, leaving=Leaving(how, when=leave_the_queue))
        )
        for i in range(10)
    ]
    await eventually(lambda: stack.num_waiting() == 10, 10.0, "a queue")
    steps = await stack.worker_metric(_STEPS)
    leave_the_queue.set()
    queued: list[Record] = await asyncio.gather(*waiting)
    left_at = max(record.left or 0.0 for record in queued)
    await eventually(lambda: stack.num_waiting() == 0, _LIMIT_S, "an empty queue")
    measured.note(f"F13 {how} queued", clients=10, stopped_s=time.monotonic() - left_at)
    assert stack.num_running() == num_slots
    leave_the_slots.set()
    await asyncio.gather(*running)
    await eventually(lambda: _nothing_runs(stack), _LIMIT_S, "idle engines")
    assert await stack.worker_metric(_STEPS) == steps
    assert_all_exact([await client.ask("[[n=4]]")])


async def test_clients_that_leave_at_the_moment_of_their_claim_leave_nothing_behind(
    stack: Stack, client: Client, num_requests: int, repetition: int
):
    """No waiting for a state: the cancellation meets its request anywhere on its way."""

    async def ask_and_leave(index: int) -> None:
        leave = asyncio.Event()
        asyncio.get_running_loop().call_later(index % 40 / 2000, leave.set)
        await client.ask(_LONG, stream=index % 2 == 0, leaving=Leaving("RST", when=leave))

    for first in range(0, 4 * num_requests, 20):
        await asyncio.gather(*(ask_and_leave(index) for index in range(first, first + 20)))
    await eventually(lambda: _nothing_runs(stack), _LIMIT_S, "idle engines")
    await _assert_engines_stand_still(stack)


async def _leave_before_the_claim_arrives(stack: Stack) -> None:
    """Redis has given the request to a worker, which does not know it yet."""
    leave = asyncio.Event()
    client = Client(stack.port)
    asking = asyncio.create_task(client.ask(_LONG, leaving=Leaving("FIN", when=leave)))
    await eventually(lambda: stack.num_running() == 1, 10.0, "a claimed request")
    leave.set()
    await asking


async def test_cancellation_that_overtakes_its_claim_still_counts(tmp_path: Path):
    async with sabotaged_stack(tmp_path, worker=["slow_claims"], num_workers=1) as stack:
        await _leave_before_the_claim_arrives(stack)
        await eventually(lambda: _nothing_runs(stack), _LIMIT_S, "idle engines")
        await _assert_engines_stand_still(stack)


async def test_control_a_cancellation_that_overtakes_its_claim_is_lost_when_it_is_forgotten(
    tmp_path: Path,
):
    broken = sabotaged_stack(
        tmp_path, worker=["slow_claims", "no_early_cancellation"], num_workers=1
    )
    async with broken as stack:
        await _leave_before_the_claim_arrives(stack)
        await eventually(lambda: _is_stepping(stack), 3.0, "an engine that runs for nobody")


async def _is_stepping(stack: Stack) -> bool:
    return await _num_steps_change(stack, await stack.worker_metric(_STEPS)) > 0


@pytest.mark.parametrize("switch", ["no_watching_clients", "no_revoking"])
async def test_control_generation_goes_on_when_nobody_acts_on_a_client_that_left(
    tmp_path: Path, switch: str
):
    async with sabotaged_stack(tmp_path, gateway=[switch], num_workers=1) as stack:
        client = Client(stack.port)
        leave = asyncio.Event()
        asking = asyncio.create_task(
            client.ask(_LONG, stream=False, leaving=Leaving("FIN", when=leave))
        )
        await eventually(lambda: stack.num_running() == 1, 10.0, "a running request")
        leave.set()
        await asking
        with pytest.raises(NeverCameError):
            await eventually(lambda: _nothing_runs(stack), _LIMIT_S)
        assert await _num_steps_change(stack, await stack.worker_metric(_STEPS)) > 0
