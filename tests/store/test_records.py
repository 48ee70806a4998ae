"""Jobs and shards: what may follow what, and who may write."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.database import Database
from services.store.file_records import NewFile, Page, add_file, find_file, list_files, remove_file
from services.store.job_records import (
    Counts,
    NewJob,
    Split,
    add_job,
    cancel_job,
    counts_of,
    end_job,
    expire_jobs,
    fail_job,
    finalize_job,
    find_job,
    is_in_use,
    list_jobs,
    start_job,
    unsent_jobs,
)
from services.store.models import JobRow
from services.store.shard_records import (
    Claim,
    JobFigures,
    claim_shard,
    finish_shard,
    forget_sent,
    give_back_shard,
    job_figures,
    renew_shard,
    shards_of,
    take_lost_shards,
    unsent_shards,
)

AGAIN_MS = 600_000
SPLITS = [Split(0, 10, 0, 100), Split(10, 10, 100, 200), Split(20, 5, 200, 250)]


def new_file(number: int, tenant: str = "a") -> NewFile:
    return NewFile(f"file-{number}", tenant, "in.jsonl", "batch", 3, "0" * 64, f"files/{number}")


async def new_job(session: AsyncSession, *, tenant: str = "a", window_s: int = 86_400) -> JobRow:
    return await add_job(
        session, NewJob(tenant, "batch", "/v1/chat/completions", "m", "file-1", "24h", window_s, 25)
    )


async def started_job(database: Database, *, window_s: int = 86_400) -> JobRow:
    async with database.begin() as session:
        job = await new_job(session, window_s=window_s)
    async with database.begin() as session:
        assert await start_job(session, job, SPLITS)
    return job


async def claimed(database: Database, job: JobRow, number: int, lease_ms: int = 60_000) -> Claim:
    async with database.begin() as session:
        claim = await claim_shard(session, job.id, number, owner="w", lease_ms=lease_ms)
    assert claim is not None
    return claim


async def status_of(database: Database, job: JobRow) -> str:
    async with database.begin() as session:
        found = await find_job(session, job.id)
    assert found is not None
    return found.status


# ------------------------------------------------------------------------------------- files


async def test_a_tenant_sees_its_own_files_only(database: Database) -> None:
    async with database.begin() as session:
        await add_file(session, new_file(1, "a"))
        await add_file(session, new_file(2, "b"))

    async with database.begin() as session:
        assert await find_file(session, "b", "file-1") is None
        assert await remove_file(session, "b", "file-1") is None
        listed = await list_files(session, "a", None, Page(10))
    assert [row.id for row in listed or []] == ["file-1"]


@pytest.mark.parametrize("is_ascending", [False, True])
async def test_pages_of_files_meet_each_file_once(database: Database, is_ascending: bool) -> None:
    async with database.begin() as session:
        for number in range(7):
            await add_file(session, new_file(number))

    seen: list[str] = []
    after = ""
    async with database.begin() as session:
        while True:
            page = await list_files(session, "a", "batch", Page(3, after, is_ascending)) or []
            seen += [row.id for row in page[:3]]
            if len(page) <= 3:
                break
            after = page[2].id

    assert sorted(seen) == [f"file-{number}" for number in range(7)]
    assert seen == sorted(seen, reverse=not is_ascending)


async def test_a_page_after_nothing_known_is_none(database: Database) -> None:
    async with database.begin() as session:
        assert await list_files(session, "a", None, Page(3, "file-9")) is None
        assert await list_jobs(session, "a", "batch", Page(3, "batch_9")) is None


# -------------------------------------------------------------------------------------- jobs


async def test_a_job_is_started_once(database: Database) -> None:
    async with database.begin() as session:
        job = await new_job(session)

    async def start() -> bool:
        async with database.begin() as session:
            return await start_job(session, job, SPLITS)

    assert sorted(await asyncio.gather(*(start() for _ in range(4)))) == [False, False, False, True]
    async with database.begin() as session:
        assert len(await shards_of(session, job.id)) == len(SPLITS)


async def test_a_job_ends_when_all_its_shards_are_done(database: Database) -> None:
    job = await started_job(database)
    for number, split in enumerate(SPLITS):
        async with database.begin() as session:
            assert not await finalize_job(session, job.id)
        claim = await claimed(database, job, number)
        async with database.begin() as session:
            counts = Counts(split.num_lines - 1, 1)
            assert await finish_shard(session, claim.shard, counts, f"part{number}")

    async with database.begin() as session:
        assert await finalize_job(session, job.id)
        again = await find_job(session, job.id)
        assert again is not None
        assert await end_job(session, again, output_file_id="o", error_file_id="e")
        assert not await end_job(session, again, output_file_id="o", error_file_id="e")
        assert await counts_of(session, [job.id]) == {job.id: Counts(22, 3)}
    assert await status_of(database, job) == "completed"


async def test_a_file_is_in_use_until_its_job_has_ended(database: Database) -> None:
    job = await started_job(database)
    async with database.begin() as session:
        assert await is_in_use(session, "file-1")
        await cancel_job(session, "a", job.id)
        again = await find_job(session, job.id)
        assert again is not None
        assert await end_job(session, again, output_file_id=None, error_file_id=None)
        assert not await is_in_use(session, "file-1")


async def test_a_stranger_cancels_nothing(database: Database) -> None:
    job = await started_job(database)

    async with database.begin() as session:
        await cancel_job(session, "b", job.id)

    assert await status_of(database, job) == "in_progress"


async def test_a_cancelled_job_keeps_what_was_begun(database: Database) -> None:
    job = await started_job(database)
    running = await claimed(database, job, 0)
    async with database.begin() as session:
        await cancel_job(session, "a", job.id)
        states = [shard.state for shard in await shards_of(session, job.id)]
        outcome = await renew_shard(session, running.shard, Counts(4, 0), lease_ms=60_000)
        assert not await finalize_job(session, job.id)
        assert await finish_shard(session, running.shard, Counts(4, 0), "part")
        assert await finalize_job(session, job.id)

    assert states == ["running", "done", "done"]
    assert outcome == "cancelled"
    assert await status_of(database, job) == "cancelling"


async def test_a_job_expires_with_its_window(database: Database) -> None:
    fresh = await started_job(database)
    old = await started_job(database, window_s=-1)

    async with database.begin() as session:
        await expire_jobs(session)
        found = await find_job(session, old.id)

    assert found is not None
    assert (found.status, found.outcome) == ("finalizing", "expired")
    assert await status_of(database, fresh) == "in_progress"


async def test_a_job_that_is_validating_or_done_is_sent_once(database: Database) -> None:
    async with database.begin() as session:
        job = await new_job(session)

    async with database.begin() as session:
        assert [j.id for j in await unsent_jobs(session, again_after_ms=AGAIN_MS)] == [job.id]
        assert await unsent_jobs(session, again_after_ms=AGAIN_MS) == []
        await forget_sent(session)
        assert [j.id for j in await unsent_jobs(session, again_after_ms=AGAIN_MS)] == [job.id]
        await start_job(session, job, SPLITS)
        await forget_sent(session)
        assert await unsent_jobs(session, again_after_ms=AGAIN_MS) == []


async def test_a_job_whose_start_was_just_sent_is_sent_to_its_end(database: Database) -> None:
    async with database.begin() as session:
        job = await new_job(session)
        await unsent_jobs(session, again_after_ms=AGAIN_MS)
        await start_job(session, job, SPLITS[:1])
    claim = await claimed(database, job, 0)

    async with database.begin() as session:
        await finish_shard(session, claim.shard, Counts(10, 0), "part")
        assert [j.id for j in await unsent_jobs(session, again_after_ms=AGAIN_MS)] == [job.id]


# ------------------------------------------------------------------------------------ shards


async def test_a_shard_is_claimed_by_one(database: Database) -> None:
    job = await started_job(database)

    async def claim() -> bool:
        async with database.begin() as session:
            return await claim_shard(session, job.id, 1, owner="w", lease_ms=60_000) is not None

    assert sorted(await asyncio.gather(*(claim() for _ in range(6)))) == [False] * 5 + [True]


async def test_what_stands_open_and_what_is_worked_on_is_counted(database: Database) -> None:
    async def figures() -> JobFigures:
        async with database.begin() as session:
            return await job_figures(session)

    assert await figures() == JobFigures(0, 0)
    job = await started_job(database)
    async with database.begin() as session:
        other = await new_job(session, tenant="b")
    assert await figures() == JobFigures(2, 0)
    claim = await claimed(database, job, 0)
    await claimed(database, job, 1, lease_ms=-1)  # its worker is gone
    assert await figures() == JobFigures(2, 1)
    async with database.begin() as session:
        assert await finish_shard(session, claim.shard, Counts(10, 0), "part")
        await cancel_job(session, "b", other.id)
    assert await figures() == JobFigures(2, 0)  # one of them is cancelling
    async with database.begin() as session:
        await fail_job(session, job.id, [])
    assert await figures() == JobFigures(1, 0)


async def test_a_worker_that_lost_its_shard_writes_nothing(database: Database) -> None:
    job = await started_job(database)
    old = await claimed(database, job, 0, lease_ms=-1)
    async with database.begin() as session:
        assert await take_lost_shards(session) == 1
    new = await claimed(database, job, 0)

    async with database.begin() as session:
        assert await renew_shard(session, old.shard, Counts(9, 0), lease_ms=60_000) is None
        assert not await finish_shard(session, old.shard, Counts(9, 0), "old")
        await give_back_shard(session, old.shard, Counts(9, 0), "old")
        shard = (await shards_of(session, job.id))[0]
    assert (shard.state, shard.attempt, shard.num_completed) == ("running", 2, 0)
    assert new.shard.attempt == 2


async def test_only_claims_without_progress_count_against_a_shard(database: Database) -> None:
    job = await started_job(database)
    strikes: list[int] = []
    for done in (0, 0, 3, 3, 4):
        claim = await claimed(database, job, 0)
        async with database.begin() as session:
            await renew_shard(session, claim.shard, Counts(done, 0), lease_ms=-1)
            await take_lost_shards(session)
            strikes.append((await shards_of(session, job.id))[0].strikes)

    assert strikes == [1, 2, 0, 1, 0]


async def test_a_shard_with_a_lease_is_not_taken(database: Database) -> None:
    job = await started_job(database)
    await claimed(database, job, 0)

    async with database.begin() as session:
        assert await take_lost_shards(session) == 0


async def test_jobs_take_turns_and_each_sends_a_few(database: Database) -> None:
    first, second = await started_job(database), await started_job(database)

    async with database.begin() as session:
        sent = await unsent_shards(session, per_job=2, again_after_ms=AGAIN_MS)
        more = await unsent_shards(session, per_job=2, again_after_ms=AGAIN_MS)

    assert [shard.number for shard in sent] == [0, 0, 1, 1]
    assert {shard.job_id for shard in sent} == {first.id, second.id}
    assert more == []


async def test_the_next_shard_is_sent_when_one_is_done(database: Database) -> None:
    job = await started_job(database)
    async with database.begin() as session:
        await unsent_shards(session, per_job=2, again_after_ms=AGAIN_MS)
    claim = await claimed(database, job, 0)

    async with database.begin() as session:
        await finish_shard(session, claim.shard, Counts(10, 0), "part")
        sent = await unsent_shards(session, per_job=2, again_after_ms=AGAIN_MS)

    assert [shard.number for shard in sent] == [2]
