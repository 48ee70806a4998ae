"""An evaluation tells scores while it goes on: of what is done, seldom, and never after its end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from evaluation.jobs.ending import end
from evaluation.jobs.office import Office, open_office
from evaluation.jobs.places import WorkPlace
from evaluation.jobs.running_scores import score_what_is_done
from evaluation.jobs.settings import JobSettings
from evaluation.jobs.shard import do_shard
from evaluation.jobs.starting import start
from services.protocol.evaluation_lines import EvaluationItem
from services.store.file_records import NewFile, add_file
from services.store.job_records import NewJob, add_job, cancel_job, find_job
from services.store.models import JobRow
from services.store.settings import StoreSettings
from tests.support.stub_endpoint import StubEndpoint, completion, text_of

NUM, FIRST = 24, 8
CLOSED = "standard-v1/closed accuracy"


def yes_to_even_ones(body: Any, _number: int) -> Any:
    return completion("yes" if int(text_of(body)) % 2 == 0 else "no")


@pytest.fixture
def gateway() -> Any:
    """One that answers at once."""
    with StubEndpoint(yes_to_even_ones) as stub:
        yield stub


@pytest.fixture
async def office(tmp_path: Path, gateway: StubEndpoint) -> AsyncIterator[Office]:
    """A job worker's, with a database and files of its own; nothing is sent to others."""
    settings = JobSettings(gateway_url=gateway.url)
    place = WorkPlace(tmp_path / "work", "test-1")
    place.folder.mkdir()
    async with open_office(settings, StoreSettings(dir=tmp_path), place, lambda *_: None) as office:
        await office.database.open()
        yield office


async def begun(office: Office) -> str:
    """Start an evaluation of three shards; every reference is yes."""
    lines = [EvaluationItem(str(number), str(number), "yes", True) for number in range(NUM)]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    with office.files.writer("files/file-1") as out:
        out.write(content)
    spec = {"benchmark": "b", "decoding": {}, "candidates": None}
    async with office.database.begin() as session:
        await add_file(
            session,
            NewFile(
                "file-1", "a", "q.jsonl", "evaluation", len(content), "0" * 64, "files/file-1", NUM
            ),
        )
        new = NewJob(
            "a", "evaluation", "/v1/chat/completions", "m", "file-1", "24h", 86_400, NUM, spec=spec
        )
        job = await add_job(session, new)
    await start(office, job.id)
    return job.id


async def job_of(office: Office, job_id: str) -> JobRow:
    async with office.database.begin() as session:
        job = await find_job(session, job_id)
    assert job is not None
    return job


async def told(office: Office, job_id: str) -> dict[str, Any]:
    return (await job_of(office, job_id)).result or {}


async def let_the_pause_end(office: Office, job_id: str) -> None:
    result = {**await told(office, job_id), "next_ms": 0}
    async with office.database.begin() as session:
        await session.execute(update(JobRow).where(JobRow.id == job_id).values(result=result))


async def test_scores_are_of_the_questions_whose_shards_are_done(office: Office) -> None:
    job_id = await begun(office)

    await do_shard(office, job_id, 1)

    result = await told(office, job_id)
    assert (result["status"], result["num_scored"]) == ("partial", FIRST)
    assert result["metrics"][CLOSED]["mean"] == 0.5
    assert result["metrics"][CLOSED]["num"] == FIRST
    assert result["metrics"][CLOSED]["low"] < 0.5 < result["metrics"][CLOSED]["high"]


async def test_scores_are_told_again_only_after_a_pause(office: Office) -> None:
    job_id = await begun(office)
    await do_shard(office, job_id, 0)
    await do_shard(office, job_id, 1)
    assert (await told(office, job_id))["num_scored"] == FIRST

    await let_the_pause_end(office, job_id)
    await score_what_is_done(office, await job_of(office, job_id))

    assert (await told(office, job_id))["num_scored"] == 2 * FIRST


async def test_the_receipt_takes_their_place_and_stays(office: Office) -> None:
    job_id = await begun(office)
    for number in (2, 0, 1):
        await do_shard(office, job_id, number)
    before = await told(office, job_id)
    assert before["num_scored"] == FIRST  # the last shard leaves the scores to the end

    await end(office, job_id)
    await score_what_is_done(office, await job_of(office, job_id))

    result = await told(office, job_id)
    assert (result["status"], result["num_scored"]) == ("complete", NUM)
    assert result["metrics"][CLOSED]["mean"] == 0.5
    assert result["receipt_file_id"]


async def test_a_cancelled_evaluation_tells_no_running_scores(office: Office) -> None:
    job_id = await begun(office)
    await do_shard(office, job_id, 0)
    await let_the_pause_end(office, job_id)
    async with office.database.begin() as session:
        await cancel_job(session, "a", job_id)

    await do_shard(office, job_id, 1)
    assert (await told(office, job_id))["num_scored"] == FIRST
    await end(office, job_id)

    result = await told(office, job_id)
    assert (result["status"], result["num_unanswered"]) == ("incomplete", NUM - FIRST)


async def test_two_workers_at_once_leave_the_scores_of_more_questions(
    office: Office, tmp_path: Path
) -> None:
    job_id = await begun(office)
    other_place = WorkPlace(tmp_path / "work", "test-2")
    async with open_office(
        office.settings, StoreSettings(dir=tmp_path), other_place, lambda *_: None
    ) as other:
        await asyncio.gather(do_shard(office, job_id, 0), do_shard(other, job_id, 1))
        await let_the_pause_end(office, job_id)
        job = await job_of(office, job_id)
        await asyncio.gather(score_what_is_done(office, job), score_what_is_done(other, job))

    assert (await told(office, job_id))["num_scored"] == 2 * FIRST


async def test_what_cannot_be_scored_now_is_left_to_the_end(office: Office) -> None:
    job_id = await begun(office)
    async with office.database.begin() as session:
        await session.execute(update(JobRow).values(input_file_id="file-gone"))

    await score_what_is_done(office, await job_of(office, job_id))

    assert await told(office, job_id) == {}
