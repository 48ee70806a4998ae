"""The start of a job: its input read once more, and cut into shards."""

import asyncio
from collections.abc import Sequence
from typing import IO

import structlog

from evaluation.jobs.office import Office
from services.protocol.batch_lines import BatchInputError, Span
from services.store.file_records import find_file
from services.store.job_records import Split, fail_job, find_job, start_job
from services.store.models import JobRow

_log = structlog.get_logger()

_SHARD_BYTES = 64 << 20


async def start(office: Office, job_id: str) -> None:
    """Split a job that is `validating`; any other is left alone."""
    async with office.database.begin() as session:
        job = await find_job(session, job_id)
        if job is None or job.status != "validating":
            return
        file = await find_file(session, job.tenant_id, job.input_file_id, may_be_expired=True)
    try:
        spans = await asyncio.to_thread(cut, office, job, "" if file is None else file.key)
        _check_count(spans, 0 if file is None else file.num_lines)
    except FileNotFoundError:
        await _fail(office, job, BatchInputError("file_not_found", "the input file is gone"))
        return
    except BatchInputError as error:
        await _fail(office, job, error)
        return
    splits = splits_of(spans)
    async with office.database.begin() as session:
        if await start_job(session, job, splits):
            _log.info("job.started", job_id=job.id, shards=len(splits))
    await office.send_due()


def splits_of(spans: Sequence[Span]) -> list[Split]:
    """Return spans as the store knows them."""
    return [Split(s.first, s.num_lines, s.start_byte, s.end_byte) for s in spans]


def cut(office: Office, job: JobRow, key: str) -> list[Span]:
    """Cut a job's input into shards; raises BatchInputError, OSError."""
    if not key:
        raise FileNotFoundError
    file: IO[bytes]
    with office.files.open(key) as file:
        most = office.settings.shard_lines
        return office.kind_of(job).spans(file, most, _SHARD_BYTES)  # pyright: ignore[reportArgumentType] - IO[bytes] is one


def _check_count(spans: Sequence[Span], num_uploaded: int) -> None:
    """Raise BatchInputError where lines are missing, which nobody could be told of one by one."""
    found = sum(span.num_lines for span in spans)
    if found != num_uploaded:
        raise BatchInputError(
            "input_damaged",
            f"the input file had {num_uploaded} lines when it was uploaded, and has {found} now; "
            "upload it again",
        )


async def _fail(office: Office, job: JobRow, error: BatchInputError) -> None:
    problem = {
        "code": error.code,
        "message": error.message,
        "line": error.line,
        "param": error.param,
    }
    async with office.database.begin() as session:
        await fail_job(session, job.id, [problem])
    _log.warning("job.failed", job_id=job.id, code=error.code)
