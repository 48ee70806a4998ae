"""F18: a gateway is told to stop, once, twice, or before it has begun."""

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import check, kinds
from tests.support.load import Load, assert_all_exact, assert_correct
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_NOT_READY_S = 0.2
_EXIT_S = 35.0
_FORCED_EXIT_S = 2.0
_ENDLESS = "[[n=6000 t=0 d=20]]"


async def _not_ready_s(stack: Stack, told_at: float) -> float:
    """Return the seconds until /readyz says 503."""

    async def is_refused() -> bool:
        return await stack.ready() == 503

    await eventually(is_refused, 2.0, "503 of /readyz")
    return time.monotonic() - told_at


async def test_stopped_gateway_is_not_ready_at_once_and_finishes_what_runs(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    gateway = stack.gateways[0]
    async with Load(client, num_requests, at_once=num_requests) as load:
        await eventually(lambda: load.num_streaming >= 12, 15.0, "streams")
        gateway.send(signal.SIGTERM)
        told_at = time.monotonic()
        not_ready_s = await _not_ready_s(stack, told_at)

        async def _is_closed() -> bool:
            return await stack.ready() == 0

        late = await client.ask("[[n=4]]")
        await eventually(_is_closed, 5.0, "the closed port")
        records = await load.ended()
        code = await stack.exit_code_of(gateway, _EXIT_S)
        exit_s = time.monotonic() - told_at
    gateway.start()
    measured.note("F18 gateway SIGTERM", open=len(records), not_ready_s=not_ready_s, exit_s=exit_s)
    assert_all_exact(records)
    assert code == 0
    assert not_ready_s <= _NOT_READY_S
    assert_all_exact([late])  # a balancer may not have looked yet


async def test_second_signal_ends_every_request_with_an_error_event(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    gateway = stack.gateways[0]
    async with Load(client, num_requests, prompts=[_ENDLESS], at_once=num_requests) as load:
        await eventually(lambda: load.num_streaming >= 12, 15.0, "streams")
        gateway.send(signal.SIGTERM)
        await _not_ready_s(stack, time.monotonic())
        gateway.send(signal.SIGTERM)
        told_at = time.monotonic()
        code = await stack.exit_code_of(gateway, _EXIT_S)
        exit_s = time.monotonic() - told_at
        records = await load.ended()
    gateway.start()
    measured.note("F18 second SIGTERM", open=len(records), exit_s=exit_s)
    assert_correct(records)
    assert {record.error_code for record in records} == {"shutting_down"}
    refused = [record for record in records if record.status == 503]
    assert refused, "no request of the load was for a whole answer"
    assert all(int(record.headers["retry-after"]) >= 1 for record in refused)
    assert code == 0
    assert exit_s <= _FORCED_EXIT_S


@pytest.mark.parametrize("moment", ["spawned", "with_children", "listening"])
async def test_signal_during_the_start_ends_the_gateway_and_leaves_nothing(
    stack: Stack, measured: Measurements, repetition: int, moment: str
):
    gateway = stack.add_gateway(f"brief-{moment}-{repetition}")
    try:
        process = psutil.Process(gateway.pid)
        children: list[psutil.Process] = []
        if moment == "with_children":
            await eventually(process.children, 20.0, "a child process")
        elif moment == "listening":
            await eventually(lambda: _is_open(stack.ports[-1]), 20.0, "an open port")
        children = process.children(recursive=True)
        gateway.send(signal.SIGTERM)
        told_at = time.monotonic()
        code = await stack.exit_code_of(gateway, 5.0)
        exit_s = time.monotonic() - told_at
        await eventually(
            lambda: not any(child.is_running() for child in children),
            2.0,
            "the end of all children",
        )
    finally:
        if gateway.exit_code is None:
            stack.kill_worker(gateway)
        stack.gateways.remove(gateway)
        stack.ports.pop()
    measured.note(f"F18 SIGTERM when {moment}", exit_s=exit_s, code=code)
    assert code in ({0} if moment != "spawned" else {0, -signal.SIGTERM})
    assert "Traceback" not in stack.log_of(gateway)


def _is_open(port: int) -> bool:
    listening = psutil.net_connections("tcp")
    return any(c.laddr[1:] == (port,) and c.status == psutil.CONN_LISTEN for c in listening)


async def test_control_requests_are_lost_when_the_gateway_just_ends(tmp_path: Path):
    async with sabotaged_stack(tmp_path, gateway=["no_gateway_drain"], num_workers=1) as stack:
        client = Client(stack.port, deadline_s=10.0)
        async with Load(client, 8, at_once=8) as load:
            await eventually(lambda: load.num_streaming >= 4, 10.0, "streams")
            stack.gateways[0].send(signal.SIGTERM)
            records = await asyncio.wait_for(load.ended(), 15.0)
        assert kinds(check(records)) == {"lost"}
