"""Queries of what a job that goes on tells of its answers so far.

It stands in the job's `result` until `job_records.end_job` puts the last one there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.clock import now_ms
from services.store.job_records import has_open_shards
from services.store.models import JobRow

_NUM = "num_scored"
_NEXT = "next_ms"


@dataclass(frozen=True, slots=True)
class Running:
    """What a job told last.

    Args:
        num_scored: questions that it was about.
        is_due: it is time for another one.
    """

    num_scored: int
    is_due: bool


async def running_result(session: AsyncSession, job_id: str) -> Running | None:
    """Return what a job told last; None: it does not go on, or all its shards are done."""
    query = select(JobRow.result, now_ms()).where(
        JobRow.id == job_id, JobRow.status == "in_progress", has_open_shards()
    )
    found = (await session.execute(query)).first()
    if found is None:
        return None
    told: Mapping[str, Any] = found[0] or {}
    return Running(told.get(_NUM, 0), found[1] >= told.get(_NEXT, 0))


async def put_running_result(
    session: AsyncSession, job_id: str, num_scored: int, result: Mapping[str, Any], pause_ms: int
) -> bool:
    """Let a job tell something; returns False where it has ended, or told more already.

    Args:
        num_scored: questions that it is about.
        pause_ms: the next one is due after so long.
    """
    now = await session.scalar(select(now_ms())) or 0
    told = {**result, _NUM: num_scored, _NEXT: now + pause_ms}
    put = await session.execute(
        update(JobRow)
        .where(
            JobRow.id == job_id,
            JobRow.status == "in_progress",
            func.coalesce(JobRow.result[_NUM].as_integer(), 0) < num_scored,
        )
        .values(result=told)
        .returning(JobRow.id)
    )
    return put.first() is not None
