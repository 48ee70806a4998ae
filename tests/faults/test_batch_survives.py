"""A batch loses no line and answers none twice, whatever dies (F07, F08, F09, F23, F33)."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI

from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.measurements import Measurements
from tests.support.program import Program, kill
from tests.support.stack import Stack
from tests.support.waiting import eventually

LIMIT_S = 300.0


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway, a worker, a job worker of two processes."""
    async with Stack(tmp_path, num_workers=1) as stack:
        stack.add_jobs("jobs", GALEN_JOBS_PROCESSES="2", GALEN_JOBS_SHARD_LINES="40")
        yield stack


@pytest.fixture
async def sdk(platform: Stack) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, which tries again as it comes."""
    url = f"http://127.0.0.1:{platform.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=20) as client:
        yield client


class Killer:
    """Kills what a batch runs on, and starts again what nobody else would."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.ways: dict[str, Callable[[], Awaitable[None]]] = {
            "celery child": self.celery_child,
            "celery parent": self.celery_parent,
            "job worker": self.job_worker,
            "gateway": self.gateway,
            "redis flush": self.redis_flush,
            "redis": self.redis,
            "engine": self.engine,
            "worker": self.worker,
        }

    def _below_jobs(self, title: str) -> list[psutil.Process]:
        try:
            below = psutil.Process(self._stack.jobs[0].pid).children(recursive=True)
            return [p for p in below if title in " ".join(p.cmdline())]
        except psutil.NoSuchProcess:  # one of them was just dying
            return []

    async def celery_child(self) -> None:
        await eventually(lambda: self._below_jobs("galen jobs process"), 30, "a process of jobs")
        for process in self._below_jobs("galen jobs process")[:1]:
            kill(process)

    async def celery_parent(self) -> None:
        await eventually(lambda: self._below_jobs("MainProcess"), 30, "a Celery worker")
        for process in self._below_jobs("MainProcess"):
            kill(process)

    async def job_worker(self) -> None:
        await self._again(self._stack.jobs[0])

    async def gateway(self) -> None:
        await self._again(self._stack.gateways[0])

    async def redis_flush(self) -> None:
        await asyncio.to_thread(self._stack.redis.flushall)

    async def redis(self) -> None:
        self._stack.kill_redis(wipe=True)
        await self._stack.start_redis()

    async def engine(self) -> None:
        await eventually(lambda: self._stack.engine_of(self._stack.workers[0]), 30, "an engine")
        self._stack.kill_engine(self._stack.workers[0])

    async def worker(self) -> None:
        self._stack.kill_worker(self._stack.workers[0])
        self._stack.workers[0].start()

    async def _again(self, program: Program) -> None:
        program.send(signal.SIGKILL)
        assert program.process is not None
        await asyncio.to_thread(program.process.wait)
        program.start()


async def num_done(sdk: AsyncOpenAI, batch_id: str) -> int:
    counts = (await sdk.batches.retrieve(batch_id)).request_counts
    assert counts is not None
    return counts.completed


@pytest.mark.e2e
@pytest.mark.timeout(LIMIT_S)
async def test_batch_survives_the_death_of_every_process_in_turn(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    num_lines = 500
    killer = Killer(platform)
    batch_id = await start_batch(sdk, input_of(num_lines))

    for number, way in enumerate(killer.ways.values(), start=1):
        enough = number * num_lines // (len(killer.ways) + 2)

        async def is_far_enough(enough: int = enough) -> bool:
            return await num_done(sdk, batch_id) >= enough

        await eventually(is_far_enough, 60, f"line {enough}")
        await way()
    batch = await ended_batch(sdk, batch_id, 120)

    await check_complete(sdk, batch, num_lines)


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
async def test_batch_survives_random_crashes(
    platform: Stack, sdk: AsyncOpenAI, seed: int, measured: Measurements
) -> None:
    draw = random.Random(seed)
    num_lines, num_crashes = 4000, 60
    killer = Killer(platform)
    batch_id = await start_batch(sdk, input_of(num_lines))
    crashes: list[str] = []

    while len(crashes) < num_crashes:
        await asyncio.sleep(draw.uniform(0.2, 2.5))  # a crash comes when it likes
        name = draw.choice(list(killer.ways))
        await killer.ways[name]()
        crashes.append(name)
        if len(crashes) % 10 == 0 and (await sdk.batches.retrieve(batch_id)).status == "completed":
            pytest.fail(f"the batch ended after {len(crashes)} crashes; take more lines")
    batch = await ended_batch(sdk, batch_id, 600)

    await check_complete(sdk, batch, num_lines)
    measured.note(f"F33 seed {seed}", crashes=num_crashes, lines=num_lines, lost=0, doubled=0)
