"""F15: requests that kill the engine that runs them, among others that do not."""

import asyncio
import json
from pathlib import Path

import pytest

from services.protocol import keys
from tests.faults.controls import sabotaged_stack
from tests.support.client import Client
from tests.support.history import Record
from tests.support.load import Load, assert_all_exact, assert_correct
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_POISONS = ("[[n=64 d=20 crash=2]]", "[[n=64 d=20 segv=0]]")


def _num_deaths(stack: Stack) -> int:
    logs = [stack.log_of(worker) for worker in stack.workers]
    return sum(log.count('"engine.died"') for log in logs)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_poisoned_request_kills_two_workers_at_most_and_harms_no_other(
    stack: Stack,
    client: Client,
    measured: Measurements,
    num_requests: int,
    repetition: int,
    stream: bool,
):
    deaths_before, letters_before = _num_deaths(stack), len(stack.dead_letters())
    full = len(stack.workers) * stack.slots - len(_POISONS)  # so that they run beside others
    async with Load(client, num_requests, at_once=full) as load:
        await eventually(lambda: stack.num_running() == full, 10.0, "full slots")
        poisons: list[Record] = await asyncio.gather(
            *(client.ask(prompt, stream=stream) for prompt in _POISONS)
        )
        records = await load.ended()
    deaths = _num_deaths(stack) - deaths_before
    letters = stack.dead_letters()[letters_before:]
    measured.note(
        f"F15 poison {'stream' if stream else 'whole'}",
        deaths=deaths, letters=len(letters),
        poison_s=max(r.events[-1].at - r.invoked for r in poisons),
        others_s=max(r.events[-1].at - r.invoked for r in records),
    )  # fmt: skip
    assert_all_exact(records)
    assert_correct(poisons)
    assert {record.error_code for record in poisons} == {"request_poisoned"}
    for record in poisons:
        _assert_not_to_be_repeated(record)
    assert deaths <= keys.DELIVERY_LIMIT * len(_POISONS)
    buried = {letter["request_id"] for letter in letters}
    assert len(letters) == len(buried) == len(_POISONS)
    assert {letter["reason"] for letter in letters} == {"engine_crashed"}

    async def is_told() -> bool:
        told = await stack.metric("galen_gateway_dead_letters")
        return told == len(stack.dead_letters())

    await eventually(is_told, 5.0, "the dead letters among the metrics")


def _assert_not_to_be_repeated(record: Record) -> None:
    """A client must not send it again; headers can say so only where no token was shown."""
    if record.status == 200:
        assert record.stream
        assert record.num_tokens > 0
        return
    assert record.status == 500
    assert record.headers["x-should-retry"] == "false"
    assert json.loads(record.body)["error"]["type"] == "server_error"


async def test_control_without_a_delivery_limit_one_request_kills_every_worker(tmp_path: Path):
    broken = sabotaged_stack(tmp_path, gateway=["no_delivery_limit"], worker=["no_delivery_limit"])
    async with broken as stack:
        client = Client(stack.port, deadline_s=30.0)
        asking = asyncio.create_task(client.ask(_POISONS[1]))
        await eventually(lambda: _num_deaths(stack) > keys.DELIVERY_LIMIT, 30.0, "a third death")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not stack.dead_letters()
