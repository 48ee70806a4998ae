"""F07, F08: Redis dies and comes back, with its data or without."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from services.protocol import keys
from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import Record, check, kinds, recovery
from tests.support.load import PROMPT, Load, assert_all_exact, assert_correct
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_OUTAGE_S = 3.0
_FLOW_AGAIN_S = 10.0
_REFUSAL_S = 1.0


async def _ask_until_answered(client: Client) -> float:
    """Return the seconds until a new request is answered well."""
    started = time.monotonic()

    async def is_answered() -> bool:
        return (await client.ask("[[n=4]]")).is_complete

    await eventually(is_answered, _FLOW_AGAIN_S, "an answer")
    return time.monotonic() - started


async def _ask_during(client: Client, outage_s: float) -> list[Record]:
    """Ask all the time while Redis is away; asking is what fills the outage."""
    until = time.monotonic() + outage_s
    records: list[Record] = []
    while time.monotonic() < until:
        records.append(await client.ask("[[n=4]]", stream=len(records) % 2 == 0))
        await asyncio.sleep(0.02)
    return records


async def test_redis_killed_and_restarted_loses_no_accepted_request(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests, at_once=40) as load:
        await eventually(lambda: load.num_streaming >= 12, 15.0, "streams")
        stack.kill_redis()
        killed_at = time.monotonic()
        refused = await _ask_during(Client(stack.port), _OUTAGE_S)
        await stack.start_redis()
        flow_again_s = await _ask_until_answered(client)
        records = await load.ended()
    assert_correct([*records, *refused])
    found = recovery(records, killed_at)
    slowest_s = max(r.events[-1].at - r.invoked for r in refused)
    measured.note_recovery(
        "F07 redis kill -9", found, flow_again_s=flow_again_s, refusal_s=slowest_s,
        num_refused=len(refused),
    )  # fmt: skip
    assert {(r.status, r.error_code) for r in refused} == {(503, "backend_unavailable")}
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
    assert slowest_s <= _REFUSAL_S
    assert found.terminal_s <= _OUTAGE_S + 5.0
    await stack.healthy()
    async with Load(client, 12) as load:
        assert_all_exact(await load.ended())


async def test_redis_restarted_empty_ends_every_request_and_flows_again(
    stack: Stack, client: Client, measured: Measurements, num_requests: int, repetition: int
):
    async with Load(client, num_requests, at_once=40) as load:
        await eventually(lambda: load.num_streaming >= 12, 15.0, "streams")
        stack.kill_redis(wipe=True)
        killed_at = time.monotonic()
        await stack.start_redis()
        flow_again_s = await _ask_until_answered(client)
        records = await load.ended()
    assert_correct(records)
    found = recovery(records, killed_at)
    measured.note_recovery("F08 redis restarted empty", found, flow_again_s=flow_again_s)
    assert found.terminal_s <= 15.0
    await stack.healthy(15.0)
    async with Load(client, 12) as load:
        assert_all_exact(await load.ended())


async def _stall_under_turnover(stack: Stack, client: Client, num_requests: int) -> list[Record]:
    """Stop Redis for longer than a command may take, while requests come and go quickly.

    What was sent to it meanwhile it runs when it wakes, though nobody waits for the replies.
    """
    prompts = ["[[n=8 t=0 d=5]]"]
    async with Load(client, 4 * num_requests, prompts=prompts, at_once=40) as load:
        await eventually(lambda: len(load.records) > num_requests, 20.0, "requests")
        stack.send_redis(signal.SIGSTOP)
        await _ask_during(Client(stack.port, deadline_s=3.0), keys.COMMAND_TIMEOUT_S + 1.0)
        stack.send_redis(signal.SIGCONT)
        return await load.ended()


async def test_redis_that_stalls_leaves_no_request_behind(
    stack: Stack, client: Client, num_requests: int, repetition: int
):
    for _ in range(2):
        assert_correct(await _stall_under_turnover(stack, client, num_requests))
        await stack.healthy(15.0)


async def test_requests_of_claims_whose_replies_are_lost_are_answered(tmp_path: Path):
    async with (
        sabotaged_stack(tmp_path, worker=["lost_claims"]) as stack,
        Load(Client(stack.port), 24, prompts=[PROMPT], at_once=8) as load,
    ):
        assert_all_exact(await load.ended())
        assert any("claim.recovered" in stack.log_of(worker) for worker in stack.workers)


async def test_control_requests_of_lost_replies_are_lost_when_nobody_asks(tmp_path: Path):
    async with sabotaged_stack(tmp_path, worker=["lost_claims", "no_claim_recovery"]) as stack:
        client = Client(stack.port, deadline_s=3.0)
        async with Load(client, 24, prompts=[PROMPT], at_once=8) as load:
            assert kinds(check(await load.ended())) == {"lost"}


async def test_control_streams_are_lost_when_an_unwritten_step_is_forgotten(tmp_path: Path):
    async with sabotaged_stack(tmp_path, worker=["no_write_again"]) as stack:
        client = Client(stack.port, deadline_s=7.0)
        # Not streamed: all tokens and the end are one write, so no gap can give the loss away.
        async with Load(client, 8, at_once=8, is_streamed=lambda _: False) as load:
            await eventually(lambda: stack.num_running() == 8, 10.0, "running requests")
            stack.kill_redis()
            await _ask_during(Client(stack.port), _OUTAGE_S)
            await stack.start_redis()
            records = await load.ended()
        assert "lost" in kinds(check(records))


async def test_control_requests_are_lost_when_nobody_sees_that_the_data_are(tmp_path: Path):
    async with sabotaged_stack(tmp_path, gateway=["no_data_loss_check"]) as stack:
        client = Client(stack.port, deadline_s=7.0)
        async with Load(client, 8, prompts=[PROMPT], at_once=8) as load:
            await eventually(lambda: load.num_streaming >= 4, 10.0, "streams")
            stack.kill_redis(wipe=True)
            await stack.start_redis()
            records = await load.ended()
        assert "lost" in kinds(check(records))
