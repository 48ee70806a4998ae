"""Job workers that hang, stop or meet a shard that kills them (F23, F24)."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI

from tests.support.batches import check_complete, ended_batch, input_of, lines_of, start_batch
from tests.support.program import kill
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway and a worker; each test adds its job workers."""
    async with Stack(tmp_path, num_workers=1) as stack:
        yield stack


@pytest.fixture
async def sdk(platform: Stack) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://127.0.0.1:{platform.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        yield client


def below(stack: Stack, title: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for program in stack.jobs:
        try:
            children = psutil.Process(program.pid).children(recursive=True)
            found += [p for p in children if title in " ".join(p.cmdline())]
        except psutil.NoSuchProcess:  # one that was just dying
            continue
    return found


async def consumer_of(stack: Stack) -> psutil.Process:
    """The Celery worker, when it takes tasks."""
    await eventually(lambda: below(stack, "galen jobs process"), 60, "a process of jobs")
    return below(stack, "MainProcess")[0]


async def test_a_job_that_nobody_works_on_is_told_by_the_gateways(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    await start_batch(sdk, input_of(1))
    platform.add_gateway("g1")  # it looks when it starts, and then every 15 s

    async def figures() -> bool:
        names = ("galen_gateway_open_jobs", "galen_gateway_held_shards")
        return [await platform.metric(name, gateway=1) for name in names] == [1, 0]

    await platform.healthy()
    await eventually(figures, 10, "the figures of jobs")


async def test_a_celery_worker_that_takes_no_tasks_is_replaced(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    platform.add_jobs("jobs", GALEN_JOBS_STUCK_S="8")
    stuck = await consumer_of(platform)
    stuck.send_signal(signal.SIGSTOP)  # alive, connected, and of no use

    batch = await ended_batch(sdk, await start_batch(sdk, input_of(20)), 60)

    await check_complete(sdk, batch, 20)
    assert (await consumer_of(platform)).pid != stuck.pid
    assert "jobs.stuck" in (platform.folder / "jobs.log").read_text()


async def test_an_idle_worker_is_left_alone(platform: Stack, sdk: AsyncOpenAI) -> None:
    platform.add_jobs("jobs", GALEN_JOBS_STUCK_S="12")
    consumer = await consumer_of(platform)
    progress = platform.folder / "store" / "work" / "jobs-1.progress"
    seen: set[int] = set()

    def has_echoed_often() -> bool:
        seen.add(progress.stat().st_mtime_ns)
        return len(seen) == 8  # more time has passed than a worker that takes nothing is given

    await eventually(has_echoed_often, 60, "eight echoes")

    assert consumer.is_running()


async def test_a_worker_that_is_told_to_end_gives_its_shard_back(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    first = platform.add_jobs("first", GALEN_JOBS_LEASE_S="60")  # no lease ends during this test
    num_lines = 150
    batch_id = await start_batch(sdk, input_of(num_lines, delay_ms=40))

    async def is_under_way() -> bool:
        return bool(platform.num_running())

    await eventually(is_under_way, 30, "a request")
    first.send(signal.SIGTERM)
    platform.add_jobs("second")
    batch = await ended_batch(sdk, batch_id, 50)

    await check_complete(sdk, batch, num_lines)
    assert first.exit_code == 0


async def test_a_shard_that_kills_its_processes_is_given_up_visibly(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    platform.add_jobs("jobs", GALEN_JOBS_LEASE_S="1")
    await consumer_of(platform)
    content = input_of(3, delay_ms=5000)  # no line is done before its process is killed
    batch_id = await start_batch(sdk, content)

    async def kill_whoever_works() -> bool:
        if platform.num_running():
            for process in below(platform, "galen jobs process"):
                kill(process)
            await eventually(lambda: not platform.num_running(), 20, "the end of its requests")
        return (await sdk.batches.retrieve(batch_id)).status == "completed"

    await eventually(kill_whoever_works, 100, "the end of the batch")

    batch = await sdk.batches.retrieve(batch_id)
    errors = await lines_of(sdk, batch.error_file_id)
    assert batch.output_file_id is None
    assert [row["error"]["code"] for row in errors] == ["worker_lost"] * 3
    assert [row["custom_id"] for row in errors] == ["line-0", "line-1", "line-2"]


async def test_answers_that_outlast_a_shards_time_are_kept(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    platform.add_jobs("jobs", GALEN_JOBS_SHARD_TIME_S="1", GALEN_JOBS_AT_ONCE="2")
    content = input_of(6, delay_ms=700)  # two seconds an answer, at least

    batch = await ended_batch(sdk, await start_batch(sdk, content), 60)

    await check_complete(sdk, batch, 6)


async def test_processes_that_die_with_answers_are_not_counted_against_their_shard(
    platform: Stack, sdk: AsyncOpenAI
) -> None:
    platform.add_jobs(
        "jobs", GALEN_JOBS_LEASE_S="10", GALEN_JOBS_PROCESSES="1", GALEN_JOBS_AT_ONCE="1"
    )
    await consumer_of(platform)
    num_lines = 40
    batch_id = await start_batch(sdk, input_of(num_lines, delay_ms=5))
    journal = platform.folder / "store" / "work" / batch_id / "0.jsonl"

    def num_kept() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for _ in range(4):  # one more than are allowed without an answer
        before = num_kept()
        await eventually(lambda before=before: num_kept() > before, 40, "an answer")
        for process in below(platform, "galen jobs process"):
            kill(process)
    batch = await ended_batch(sdk, batch_id, 60)

    await check_complete(sdk, batch, num_lines)


async def test_two_machines_share_a_batch(platform: Stack, sdk: AsyncOpenAI) -> None:
    for name in ("one", "two"):
        work = str(platform.folder / f"disk-of-{name}")
        platform.add_jobs(
            name, GALEN_JOBS_WORK_DIR=work, GALEN_JOBS_PROCESSES="1", GALEN_JOBS_SHARD_LINES="10"
        )
    await eventually(lambda: len(below(platform, "galen jobs process")) == 2, 60, "both")

    batch = await ended_batch(sdk, await start_batch(sdk, input_of(200, delay_ms=20)), 60)

    await check_complete(sdk, batch, 200)
    for name in ("one", "two"):
        touched = platform.folder / f"disk-of-{name}" / f"{name}-1.progress"
        assert touched.exists()
