"""F02 with the vLLM engine: an answer goes on, to the character, on another worker.

Whichever process of the engine is killed: its own, vLLM's core below it, or a rank below that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.support.interruption import assert_answers_survive_a_kill, real_stack
from tests.support.program import Program
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

_NOT_READY_S = 2.0
_START_S = 150.0


@dataclass(slots=True)
class KillingStack(Stack):
    """Kills a process of its choice where one asks for the engine's death."""

    choose: Callable[[psutil.Process], psutil.Process] = field(default=lambda engine: engine)
    notices: list["asyncio.Task[float]"] = field(default_factory=list)

    def kill_engine(self, worker: Program) -> float:
        engine, worker_id = self.engine_of(worker), self.worker_id(worker)
        assert engine is not None
        self.choose(engine).kill()
        is_away = eventually(lambda: self.worker_id(worker) != worker_id, 30.0, "its lease's end")
        self.notices.append(asyncio.ensure_future(is_away))
        return 0.0


def killing(stack: Stack) -> KillingStack:
    """The same stack, not started either."""
    given = {f.name: getattr(stack, f.name) for f in fields(stack) if f.init}
    return KillingStack(**given)


def core_of(engine: psutil.Process) -> psutil.Process:
    return next(p for p in engine.children() if "EngineCore" in p.name())


def rank_of(engine: psutil.Process) -> psutil.Process:
    """The last of vLLM's workers."""
    return [p for p in core_of(engine).children() if "VLLM::" in p.name()][-1]


def itself(engine: psutil.Process) -> psutil.Process:
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[KillingStack]:
    folder = tmp_path_factory.mktemp("stack")
    stack = killing(real_stack(folder, "vllm", tiny_llava, KV_CACHE_GIB="1"))
    async with stack:
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sharded_stack(
    tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[KillingStack]:
    folder = tmp_path_factory.mktemp("sharded-stack")
    stack = killing(
        real_stack(folder, "vllm", tiny_llava, KV_CACHE_GIB="1", TENSOR_PARALLEL_SIZE="2")
    )
    async with stack:
        yield stack


async def assert_answers_survive(
    stack: KillingStack, victim: Callable[[psutil.Process], psutil.Process]
) -> None:
    await stack.healthy(_START_S)
    stack.choose = victim
    await assert_answers_survive_a_kill(stack)
    assert await stack.notices.pop() < _NOT_READY_S


@pytest.mark.parametrize("victim", [pytest.param(itself, marks=pytest.mark.long), core_of])
async def test_answers_go_on_where_a_kill_cut_them(
    stack: KillingStack, victim: Callable[[psutil.Process], psutil.Process]
) -> None:
    await assert_answers_survive(stack, victim)


@pytest.mark.long  # the engine itself: tests/contracts/test_engine_contract.py
@pytest.mark.parametrize("victim", [core_of, rank_of])
async def test_answers_of_two_ranks_go_on_where_a_kill_cut_them(
    sharded_stack: KillingStack, victim: Callable[[psutil.Process], psutil.Process]
) -> None:
    await assert_answers_survive(sharded_stack, victim)
