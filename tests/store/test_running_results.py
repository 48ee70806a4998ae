"""What a job tells while it goes on: the most stays, and nothing comes after its end."""

import asyncio

from services.store.database import Database
from services.store.job_records import (
    NewJob,
    Split,
    add_job,
    cancel_job,
    end_job,
    find_job,
    start_job,
)
from services.store.models import JobRow
from services.store.running_results import put_running_result, running_result


async def started_job(database: Database) -> JobRow:
    async with database.begin() as session:
        job = await add_job(
            session,
            NewJob("a", "evaluation", "/v1/chat/completions", "m", "file-1", "24h", 86_400, 20),
        )
    async with database.begin() as session:
        assert await start_job(session, job, [Split(0, 20, 0, 100)])
    return job


async def put(database: Database, job: JobRow, num: int, *, pause_ms: int = 0) -> bool:
    async with database.begin() as session:
        return await put_running_result(session, job.id, num, {"status": "partial"}, pause_ms)


async def num_told(database: Database, job: JobRow) -> int | None:
    async with database.begin() as session:
        found = await find_job(session, job.id)
    assert found is not None
    return found.result.get("num_scored") if found.result else None


async def test_fewer_questions_never_take_the_place_of_more(database: Database) -> None:
    job = await started_job(database)

    assert await put(database, job, 5)
    assert not await put(database, job, 3)
    assert not await put(database, job, 5)

    assert await num_told(database, job) == 5


async def test_of_many_at_once_the_most_stays(database: Database) -> None:
    job = await started_job(database)

    await asyncio.gather(*(put(database, job, num) for num in (4, 9, 2, 7, 1, 8)))

    assert await num_told(database, job) == 9


async def test_the_next_one_is_due_after_the_pause(database: Database) -> None:
    job = await started_job(database)
    async with database.begin() as session:
        first = await running_result(session, job.id)
    await put(database, job, 5, pause_ms=60_000)
    async with database.begin() as session:
        within = await running_result(session, job.id)
    await put(database, job, 6, pause_ms=0)
    async with database.begin() as session:
        after = await running_result(session, job.id)

    assert first is not None
    assert (first.num_scored, first.is_due) == (0, True)
    assert within is not None
    assert (within.num_scored, within.is_due) == (5, False)
    assert after is not None
    assert after.is_due


async def test_nothing_is_told_once_a_job_ends(database: Database) -> None:
    job = await started_job(database)
    async with database.begin() as session:
        await cancel_job(session, "a", job.id)
        assert await running_result(session, job.id) is None
    assert not await put(database, job, 5)
    async with database.begin() as session:
        ended = await find_job(session, job.id)
        assert ended is not None
        assert await end_job(
            session, ended, output_file_id=None, error_file_id=None, result={"status": "incomplete"}
        )

    assert not await put(database, job, 20)
    assert await num_told(database, job) is None
