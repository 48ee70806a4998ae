"""Queries of jobs (batches and evaluations): made, listed, cancelled, brought to their end.

What does *not* live here: shards (`shard_records.py`), what a job does (`evaluation/jobs`).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.clock import now_ms
from services.store.file_records import Page
from services.store.models import (
    ENDED,
    JobKind,
    JobOutcome,
    JobRow,
    JobStatus,
    ShardRow,
    ShardState,
)

_ID_PREFIX: dict[JobKind, str] = {"batch": "batch", "evaluation": "eval"}
LIVE: tuple[JobStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is made of.

    Args:
        window_s: it expires after so long.
        key_id: of the key that pays for it.
    """

    tenant_id: str
    kind: JobKind
    endpoint: str
    model: str
    input_file_id: str
    completion_window: str
    window_s: int
    num_lines: int
    metadata: Mapping[str, str] | None = None
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines that are done."""

    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """A shard to be made; see `ShardRow`."""

    first_line: int
    num_lines: int
    start_byte: int
    end_byte: int


async def add_job(session: AsyncSession, job: NewJob) -> JobRow:
    """Make a job; it is `validating`."""
    created_ms = await session.scalar(select(now_ms())) or 0
    row = JobRow(
        id=f"{_ID_PREFIX[job.kind]}_{secrets.token_hex(12)}",
        tenant_id=job.tenant_id,
        kind=job.kind,
        status="validating",
        outcome="completed",
        endpoint=job.endpoint,
        model=job.model,
        completion_window=job.completion_window,
        input_file_id=job.input_file_id,
        spec=dict(job.spec),
        metadata_=None if job.metadata is None else dict(job.metadata),
        total=job.num_lines,
        created_ms=created_ms,
        expires_ms=created_ms + job.window_s * 1000,
        key_id=job.key_id,
    )
    session.add(row)
    return row


async def find_job(
    session: AsyncSession, job_id: str, *, tenant_id: str | None = None
) -> JobRow | None:
    """Return a job; None: there is none of this id, or it is another tenant's."""
    query = select(JobRow).where(JobRow.id == job_id)
    if tenant_id is not None:
        query = query.where(JobRow.tenant_id == tenant_id)
    return await session.scalar(query)


async def list_jobs(
    session: AsyncSession, tenant_id: str, kind: JobKind, page: Page
) -> list[JobRow] | None:
    """Return a page of a tenant's jobs, the newest first, and one more if there are more.

    None: `after` is none of them.
    """
    query = select(JobRow).where(JobRow.tenant_id == tenant_id, JobRow.kind == kind)
    if page.after:
        last = await find_job(session, page.after, tenant_id=tenant_id)
        if last is None:
            return None
        query = query.where(tuple_(JobRow.created_ms, JobRow.id) < (last.created_ms, last.id))
    query = query.order_by(JobRow.created_ms.desc(), JobRow.id.desc()).limit(page.limit + 1)
    return list(await session.scalars(query))


async def counts_of(session: AsyncSession, job_ids: Sequence[str]) -> dict[str, Counts]:
    """Return how many lines of each job are done."""
    query = (
        select(ShardRow.job_id, func.sum(ShardRow.num_completed), func.sum(ShardRow.num_failed))
        .where(ShardRow.job_id.in_(job_ids))
        .group_by(ShardRow.job_id)
    )
    found = {row[0]: Counts(int(row[1]), int(row[2])) for row in await session.execute(query)}
    return {job_id: found.get(job_id, Counts()) for job_id in job_ids}


async def statuses_of(session: AsyncSession, job_ids: Sequence[str]) -> dict[str, str]:
    """Return the status of each job that is known."""
    query = select(JobRow.id, JobRow.status).where(JobRow.id.in_(job_ids))
    return {row[0]: row[1] for row in await session.execute(query)}


async def is_in_use(session: AsyncSession, file_id: str) -> bool:
    """Whether a job that has not ended reads a file."""
    query = select(exists().where(JobRow.input_file_id == file_id, JobRow.status.in_(LIVE)))
    return bool(await session.scalar(query))


async def cancel_job(session: AsyncSession, tenant_id: str, job_id: str) -> None:
    """Let a job end as `cancelled`, if it has not come to its end; what is done is kept."""
    await _end_early(
        session,
        "cancelled",
        JobRow.id == job_id,
        JobRow.tenant_id == tenant_id,
        JobRow.status.in_(("validating", "in_progress")),
    )


async def expire_jobs(session: AsyncSession) -> None:
    """Let every job whose window is over end as `expired`; what is done is kept."""
    await _end_early(
        session,
        "expired",
        JobRow.expires_ms < now_ms(),
        JobRow.outcome == "completed",
        JobRow.status.in_(("validating", "in_progress")),
    )


async def start_job(session: AsyncSession, job: JobRow, shards: Sequence[Split]) -> bool:
    """Give a job that is `validating` its shards; returns whether it was."""
    started = await session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.status == "validating")
        .values(
            status="in_progress",
            in_progress_ms=now_ms(),
            sent_ms=None,  # that was for its start; its end is to be sent, too
        )
        .returning(JobRow.id)
    )
    if started.first() is None:
        return False
    session.add_all(new_shards(job, shards, "waiting"))
    return True


def new_shards(job: JobRow, shards: Sequence[Split], state: ShardState) -> list[ShardRow]:
    """Return a job's shards, which nobody has begun."""
    return [
        ShardRow(
            job_id=job.id,
            number=number,
            tenant_id=job.tenant_id,
            first_line=shard.first_line,
            num_lines=shard.num_lines,
            start_byte=shard.start_byte,
            end_byte=shard.end_byte,
            state=state,
            attempt=0,
            strikes=0,
            num_at_claim=0,
            num_completed=0,
            num_failed=0,
        )
        for number, shard in enumerate(shards)
    ]


async def fail_job(
    session: AsyncSession, job_id: str, problems: Sequence[Mapping[str, Any]]
) -> None:
    """End a job for what is wrong with its input."""
    await session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.not_in(ENDED))
        .values(status="failed", problems=[dict(p) for p in problems], ended_ms=now_ms())
    )


async def finalize_job(session: AsyncSession, job_id: str) -> bool:
    """Begin to end a job whose shards are all done; returns whether it is at that point."""
    await session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status == "in_progress", ~has_open_shards())
        .values(status="finalizing", finalizing_ms=now_ms())
    )
    query = select(JobRow.id).where(
        JobRow.id == job_id,
        JobRow.status.in_(("finalizing", "cancelling")),
        ~has_open_shards(),
    )
    return await session.scalar(query) is not None


async def end_job(
    session: AsyncSession,
    job: JobRow,
    *,
    output_file_id: str | None,
    error_file_id: str | None,
    result: Mapping[str, Any] | None = None,
) -> bool:
    """End a job as its outcome says; returns False where it has ended already.

    Lines that were never asked count as failed: they are in the error file, too.
    """
    ended = await session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.status.in_(("finalizing", "cancelling")))
        .values(
            status=job.outcome,
            ended_ms=now_ms(),
            output_file_id=output_file_id,
            error_file_id=error_file_id,
            result=None if result is None else dict(result),
        )
        .returning(JobRow.id)
    )
    await session.execute(
        update(ShardRow)
        .where(ShardRow.job_id == job.id)
        .values(num_failed=ShardRow.num_lines - ShardRow.num_completed)
    )
    return ended.first() is not None


async def unsent_jobs(session: AsyncSession, *, again_after_ms: int) -> list[JobRow]:
    """Take the jobs that need a worker for their start or their end: they count as sent now."""
    is_due = or_(JobRow.sent_ms.is_(None), JobRow.sent_ms < now_ms() - again_after_ms)
    at_an_end = (
        JobRow.status.in_(("in_progress", "finalizing", "cancelling"))
    ) & ~has_open_shards()
    query = (
        update(JobRow)
        .where(is_due, or_(JobRow.status == "validating", at_an_end))
        .values(sent_ms=now_ms())
        .returning(JobRow)
    )
    return list(await session.scalars(query))


def has_open_shards() -> ColumnElement[bool]:
    """Whether a job has shards that are not done; within a query of jobs."""
    return exists().where(ShardRow.job_id == JobRow.id, ShardRow.state != "done")


async def _end_early(
    session: AsyncSession, outcome: JobOutcome, *conditions: ColumnElement[bool]
) -> None:
    """Shards that nobody has begun are done; the others end when their worker sees it."""
    values: dict[str, Any] = {"outcome": outcome, "cancelling_ms": now_ms(), "sent_ms": None}
    if outcome == "cancelled":
        values["status"] = "cancelling"
    else:
        values |= {"status": "finalizing", "finalizing_ms": now_ms(), "cancelling_ms": None}
    ended = await session.scalars(
        update(JobRow).where(*conditions).values(**values).returning(JobRow.id)
    )
    await session.execute(
        update(ShardRow)
        .where(ShardRow.job_id.in_(list(ended)), ShardRow.state == "waiting", ShardRow.attempt == 0)
        .values(state="done")
    )
