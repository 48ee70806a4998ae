"""`galen up` does batches, and goes on with those of a run that was killed."""

import asyncio
import time
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.end_to_end.launched import LaunchedUp
from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(180)
def test_a_batch_outlives_the_launcher(short_folder: Path, tmp_path: Path) -> None:
    num_lines = 300
    words = ("--engine", "fake", "--no-ask", "--port", "0", "--data-dir", str(tmp_path / "data"))

    async def begin(url: str) -> str:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            batch_id = await start_batch(client, input_of(num_lines, delay_ms=40))

            async def is_under_way() -> bool:
                counts = (await client.batches.retrieve(batch_id)).request_counts
                return counts is not None and counts.completed > 0

            await eventually(is_under_way, 60, "an answer")
            return batch_id

    async def finish(url: str, batch_id: str) -> None:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            batch = await ended_batch(client, batch_id, 90)
            await check_complete(client, batch, num_lines)

    with LaunchedUp(short_folder, *words) as up:
        batch_id = asyncio.run(begin(up.url()))
        family = up.family()
        up.process.kill()  # and with it everything that it has started
        up.process.wait()
        deadline = time.monotonic() + 10
        while any(p.is_running() and p.status() != "zombie" for p in family):
            assert time.monotonic() < deadline, "a process outlived the launcher"

    with LaunchedUp(short_folder, *words) as up:
        asyncio.run(finish(up.url(), batch_id))
        assert up.children("galen jobs")


def test_jobs_can_be_left_out(short_folder: Path) -> None:
    words = ("--engine", "fake", "--no-ask", "--port", "0", "--jobs", "0")
    with LaunchedUp(short_folder, *words) as up:
        up.url()

        assert not up.children("galen jobs")


def test_job_workers_that_die_all_the_time_do_not_end_chat(
    short_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").touch()  # where unfinished results would be kept
    words = ("--engine", "fake", "--no-ask", "--port", "0", "--data-dir", str(tmp_path))
    with LaunchedUp(short_folder, *words) as up:
        url = up.url()
        up.line_with("batches and evaluations wait", 60)

        async def ask() -> str:
            async with AsyncOpenAI(base_url=url, api_key="none") as client:
                answer = await client.chat.completions.create(
                    model="fake", messages=[{"role": "user", "content": "[[n=2]]"}]
                )
            return answer.choices[0].message.content or ""

        assert asyncio.run(ask()) == "zq0000 zq0001 "
