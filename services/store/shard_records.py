"""Queries of shards: claimed under a lease, renewed, given back, done. Attempts are the fence.

Every write of a worker names the attempt that it claimed, and changes nothing once somebody else
has claimed the shard. What does *not* live here: jobs (`job_records.py`).
"""

from dataclasses import dataclass
from typing import cast

from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.clock import now_ms
from services.store.job_records import LIVE, Counts
from services.store.models import JobOutcome, JobRow, ShardRow


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that this worker has now.

    Args:
        is_ending: nothing more is asked; what is done is brought in.
    """

    job: JobRow
    shard: ShardRow
    is_ending: bool


@dataclass(frozen=True, slots=True)
class JobFigures:
    """What stands open, and what is worked on.

    Args:
        num_open: jobs that have not ended.
        num_held: shards whose worker keeps its lease.
    """

    num_open: int
    num_held: int


async def claim_shard(
    session: AsyncSession, job_id: str, number: int, *, owner: str, lease_ms: int
) -> Claim | None:
    """Claim a shard; None: somebody has it, or it is done."""
    shard = await session.scalar(
        update(ShardRow)
        .where(
            ShardRow.job_id == job_id,
            ShardRow.number == number,
            ShardRow.state == "waiting",
        )
        .values(
            state="running",
            attempt=ShardRow.attempt + 1,
            num_at_claim=ShardRow.num_completed + ShardRow.num_failed,
            owner=owner,
            lease_until_ms=now_ms() + lease_ms,
        )
        .returning(ShardRow)
    )
    if shard is None:
        return None
    job = (await session.scalars(select(JobRow).where(JobRow.id == job_id))).one()
    return Claim(job, shard, is_ending=job.outcome != "completed")


async def renew_shard(
    session: AsyncSession, shard: ShardRow, counts: Counts, *, lease_ms: int
) -> JobOutcome | None:
    """Keep a shard and say how far it is; returns what its job will end as; None: it is lost."""
    renewed = await session.execute(
        update(ShardRow)
        .where(*_mine(shard))
        .values(
            lease_until_ms=now_ms() + lease_ms,
            num_completed=counts.completed,
            num_failed=counts.failed,
        )
        .returning(ShardRow.number)
    )
    if renewed.first() is None:
        return None
    outcome = await session.scalar(select(JobRow.outcome).where(JobRow.id == shard.job_id))
    return cast("JobOutcome | None", outcome)


async def finish_shard(
    session: AsyncSession, shard: ShardRow, counts: Counts, part_key: str
) -> bool:
    """Mark a shard as done, with its results; returns False where it was lost before."""
    finished = await session.execute(
        update(ShardRow)
        .where(*_mine(shard))
        .values(
            state="done",
            num_completed=counts.completed,
            num_failed=counts.failed,
            part_key=part_key,
            owner=None,
            lease_until_ms=None,
        )
        .returning(ShardRow.number)
    )
    return finished.first() is not None


async def give_back_shard(
    session: AsyncSession, shard: ShardRow, counts: Counts, part_key: str | None
) -> None:
    """Let another worker go on with a shard, from the results so far."""
    await session.execute(
        update(ShardRow)
        .where(*_mine(shard))
        .values(
            state="waiting",
            strikes=0,
            num_completed=counts.completed,
            num_failed=counts.failed,
            part_key=part_key or ShardRow.part_key,
            owner=None,
            lease_until_ms=None,
            sent_ms=None,
        )
    )


async def take_lost_shards(session: AsyncSession) -> int:
    """Take shards from workers whose leases are over; returns how many.

    A claim that had brought lines before it was lost says nothing against the shard.
    """
    has_brought = ShardRow.num_completed + ShardRow.num_failed > ShardRow.num_at_claim
    taken = await session.scalars(
        update(ShardRow)
        .where(ShardRow.state == "running", ShardRow.lease_until_ms < now_ms())
        .values(
            state="waiting",
            strikes=case((has_brought, 0), else_=ShardRow.strikes + 1),
            owner=None,
            lease_until_ms=None,
            sent_ms=None,
        )
        .returning(ShardRow.number)
    )
    return len(list(taken))


async def unsent_shards(
    session: AsyncSession, *, per_job: int, again_after_ms: int
) -> list[ShardRow]:
    """Take the shards that workers should get now: they count as sent.

    Args:
        per_job: so many of a job may be sent or running at once, so that no job has to wait for
            all shards of those before it.
        again_after_ms: what was sent so long ago is taken for lost.
    """
    jobs = list(
        await session.scalars(
            select(JobRow)
            .where(JobRow.status.in_(("in_progress", "cancelling", "finalizing")))
            .order_by(JobRow.created_ms)
        )
    )
    is_due = or_(ShardRow.sent_ms.is_(None), ShardRow.sent_ms < now_ms() - again_after_ms)
    taken: list[ShardRow] = []
    for job in jobs:
        open_shards = (ShardRow.job_id == job.id, ShardRow.state != "done")
        under_way = await session.scalar(
            select(func.count())
            .select_from(ShardRow)
            .where(*open_shards, or_(ShardRow.state == "running", ~is_due))
        )
        room = per_job - (under_way or 0)
        if room <= 0:
            continue
        due = (
            select(ShardRow.number)
            .where(ShardRow.job_id == job.id, ShardRow.state == "waiting", is_due)
            .order_by(ShardRow.number)
            .limit(room)
        )
        numbers = list(await session.scalars(due))
        if numbers:
            query = (
                update(ShardRow)
                .where(
                    ShardRow.job_id == job.id,
                    ShardRow.number.in_(numbers),
                    ShardRow.state == "waiting",
                )
                .values(sent_ms=now_ms())
                .returning(ShardRow)
            )
            taken += await session.scalars(query)
    return sorted(taken, key=lambda shard: shard.number)  # jobs take turns


async def job_figures(session: AsyncSession) -> JobFigures:
    """Return how many jobs there are to do, and how many shards somebody does."""
    num_open = select(func.count()).select_from(JobRow).where(JobRow.status.in_(LIVE))
    num_held = (
        select(func.count())
        .select_from(ShardRow)
        .where(ShardRow.state == "running", ShardRow.lease_until_ms >= now_ms())
    )
    return JobFigures(await session.scalar(num_open) or 0, await session.scalar(num_held) or 0)


async def forget_sent(session: AsyncSession) -> None:
    """Count nothing as sent: the queue has lost what it held."""
    await session.execute(update(ShardRow).where(ShardRow.state == "waiting").values(sent_ms=None))
    await session.execute(update(JobRow).values(sent_ms=None))


async def shards_of(session: AsyncSession, job_id: str) -> list[ShardRow]:
    """Return a job's shards in order."""
    query = select(ShardRow).where(ShardRow.job_id == job_id).order_by(ShardRow.number)
    return list(await session.scalars(query))


def _mine(shard: ShardRow) -> tuple[ColumnElement[bool], ...]:
    return (
        ShardRow.job_id == shard.job_id,
        ShardRow.number == shard.number,
        ShardRow.attempt == shard.attempt,
        ShardRow.state == "running",
    )
