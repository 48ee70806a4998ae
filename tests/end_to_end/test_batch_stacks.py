"""Batches on platforms of their own: no job worker at first, PostgreSQL with two of them."""

from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.support.batches import (
    check_complete,
    ended_batch,
    input_of,
    lines_of,
    start_batch,
)
from tests.support.postgres_server import PostgresServer
from tests.support.stack import Stack

pytestmark = pytest.mark.e2e


async def test_a_batch_that_is_cancelled_before_it_is_begun_tells_of_every_line(
    tmp_path: Path,
) -> None:
    async with Stack(tmp_path, num_workers=1) as stack:
        url = f"http://127.0.0.1:{stack.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            batch_id = await start_batch(client, input_of(30))  # nobody is there to begin it
            assert (await client.batches.cancel(batch_id)).status == "cancelling"
            stack.add_jobs("jobs", GALEN_JOBS_SHARD_LINES="20")
            batch = await ended_batch(client, batch_id, 30)

            errors = await lines_of(client, batch.error_file_id)

    assert batch.status == "cancelled"
    assert [row["custom_id"] for row in errors] == [f"line-{i}" for i in range(30)]
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (30, 0, 30)


async def test_a_batch_runs_on_postgresql_and_two_job_workers(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    settings = {"GALEN_STORE_DATABASE_URL": postgres.new_database()}
    async with Stack(tmp_path, num_workers=1, settings=settings) as stack:
        for name in ("one", "two"):
            work = str(tmp_path / f"disk-of-{name}")
            stack.add_jobs(name, GALEN_JOBS_WORK_DIR=work, GALEN_JOBS_SHARD_LINES="10")
        url = f"http://127.0.0.1:{stack.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=5) as client:
            cancelled = await start_batch(client, input_of(300, delay_ms=40))
            batch = await ended_batch(client, await start_batch(client, input_of(100)), 60)
            await check_complete(client, batch, 100)
            await client.batches.cancel(cancelled)
            assert (await ended_batch(client, cancelled, 30)).status == "cancelled"
