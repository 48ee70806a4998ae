"""G15: restarts under load, of each worker in turn, and of a gateway beside a second one."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.history import Record
from tests.support.load import PROMPT, Load, assert_all_exact
from tests.support.measurements import Measurements
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_MOST = 100_000
_EXIT_S = 35.0
_READY_S = 30.0


async def test_workers_restarted_in_turn_cost_no_error(
    stack: Stack, client: Client, measured: Measurements, repetition: int
):
    started = time.monotonic()
    async with Load(client, _MOST, at_once=16) as load:
        await eventually(lambda: load.num_streaming >= 8, 10.0, "streams")
        for worker in stack.workers:
            worker_id = stack.worker_id(worker)
            worker.send(signal.SIGTERM)
            assert await stack.exit_code_of(worker, _EXIT_S) == 0
            worker.start()
            await eventually(
                lambda worker=worker, worker_id=worker_id: (
                    stack.worker_id(worker) not in {"", worker_id}
                ),
                _READY_S,
                f"{worker.name} again",
            )
        records = await load.enough()
    measured.note(
        "G15 rolling restart of workers", workers=len(stack.workers), requests=len(records),
        took_s=time.monotonic() - started,
    )  # fmt: skip
    assert_all_exact(records)


class _TwoGateways:
    """Asks whichever gateway says that it is ready, as a load balancer would."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._clients = [Client(port) for port in stack.ports]
        self.answers: list[Record] = []
        self.num_asked_again = 0
        self.is_enough = False

    async def ask_on(self, index: int) -> None:
        """Ask one request after the other."""
        while not self.is_enough:
            self.answers.append(await self._ask(stream=index % 3 != 2))

    async def _ask(self, *, stream: bool) -> Record:
        """A gateway may begin to drain between its `ready` and the request: then ask the other."""
        while True:
            record = await self._clients[await self._ready_one()].ask(PROMPT, stream=stream)
            if record.error_code != "shutting_down":
                return record
            assert record.status == 503
            self.num_asked_again += 1

    async def _ready_one(self) -> int:
        while True:
            for index in range(len(self._clients)):
                if await self._stack.ready(index) == 200:
                    return index
            await asyncio.sleep(0.02)


async def test_gateway_restarted_beside_another_costs_no_error(
    tmp_path: Path, measured: Measurements, repetition: int
):
    async with Stack(tmp_path, num_workers=2, num_gateways=2) as stack:
        clients = _TwoGateways(stack)
        asking = [asyncio.create_task(clients.ask_on(index)) for index in range(12)]
        first = stack.gateways[0]
        await eventually(lambda: len(clients.answers) >= 12, 15.0, "answers of the first")
        first.send(signal.SIGTERM)
        assert await stack.exit_code_of(first, _EXIT_S) == 0
        by_first = len(clients.answers)
        await eventually(lambda: len(clients.answers) >= by_first + 12, 15.0, "answers of the next")
        first.start()
        await eventually(lambda: _is_ready(stack), _READY_S, "the first gateway again")
        by_second = len(clients.answers)
        await eventually(lambda: len(clients.answers) >= by_second + 24, 15.0, "more answers")
        clients.is_enough = True
        await asyncio.gather(*asking)
    measured.note(
        "G15 gateway beside another", requests=len(clients.answers),
        asked_again=clients.num_asked_again,
    )  # fmt: skip
    assert_all_exact(clients.answers)


async def _is_ready(stack: Stack) -> bool:
    return await stack.ready(0) == 200
