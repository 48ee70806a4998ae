"""Queries of votes: each of a caller sees that caller's only; the export sees what has consent.

What does *not* live here: what a vote may hold (`gateway/feedback_schemas.py`).
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.clock import now_ms
from services.store.file_records import Page
from services.store.models import FeedbackRow

_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Voter:
    """Whose votes; `key_id` is "" for a caller without a key."""

    tenant_id: str
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a voter gives to learn from; empty without consent."""

    reason: str | None = None
    corrected_answer: str | None = None
    conversation: list[dict[str, str]] | None = None
    images: list[dict[str, Any]] | None = None
    subject: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class NewVote:
    """A vote; see `FeedbackRow`."""

    request_id: str
    model: str
    revision: str
    rating: str
    consent: bool
    evidence: Evidence


async def put_vote(session: AsyncSession, voter: Voter, vote: NewVote) -> FeedbackRow:
    """Keep a vote; a voter's second one on a request takes the place of the first."""
    moment = await session.scalar(select(now_ms())) or 0
    query = select(FeedbackRow).where(*_of(voter), FeedbackRow.request_id == vote.request_id)
    row = await session.scalar(query.with_for_update())
    if row is None:
        row = FeedbackRow(
            id=f"vote_{secrets.token_hex(12)}",
            tenant_id=voter.tenant_id,
            key_id=voter.key_id,
            request_id=vote.request_id,
            created_ms=moment,
        )
        _fill(row, vote, moment)
        try:
            async with session.begin_nested():
                session.add(row)
        except IntegrityError:  # the same voter's other vote came just now
            row = (await session.scalars(query.with_for_update())).one()
        else:
            return row
    _fill(row, vote, moment)
    return row


async def list_votes(session: AsyncSession, voter: Voter, page: Page) -> list[FeedbackRow] | None:
    """Return a page, newest first, and one more if there are more; None: no such `after`."""
    query = select(FeedbackRow).where(*_of(voter))
    if page.after:
        last = await session.scalar(query.where(FeedbackRow.id == page.after))
        if last is None:
            return None
        place = tuple_(FeedbackRow.created_ms, FeedbackRow.id)
        query = query.where(place < (last.created_ms, last.id))
    query = query.order_by(FeedbackRow.created_ms.desc(), FeedbackRow.id.desc())
    return list(await session.scalars(query.limit(page.limit + 1)))


async def remove_vote(session: AsyncSession, voter: Voter, vote_id: str) -> bool:
    """Remove a voter's vote with all that it holds; returns whether there was one."""
    query = delete(FeedbackRow).where(*_of(voter), FeedbackRow.id == vote_id)
    return await session.scalar(query.returning(FeedbackRow.id)) is not None


async def count_votes(session: AsyncSession) -> int:
    """Return how many votes there are, of all voters."""
    return await session.scalar(select(func.count()).select_from(FeedbackRow)) or 0


async def voted_files(session: AsyncSession) -> set[str]:
    """Return the ids of files that votes name, of all voters."""
    query = select(FeedbackRow.images).where(FeedbackRow.images.is_not(None))
    found: set[str] = set()
    for images in await session.scalars(query):
        found.update(image["file_id"] for image in images or () if "file_id" in image)
    return found


async def every_vote(session: AsyncSession) -> AsyncIterator[FeedbackRow]:
    """Yield all votes of all voters, in the order in which they were made."""
    place = tuple_(FeedbackRow.created_ms, FeedbackRow.id)
    after = (-1, "")
    while True:
        query = select(FeedbackRow).where(place > after)
        query = query.order_by(FeedbackRow.created_ms, FeedbackRow.id).limit(_AT_ONCE)
        rows = list(await session.scalars(query))
        for row in rows:
            yield row
        if len(rows) < _AT_ONCE:
            return
        after = (rows[-1].created_ms, rows[-1].id)
        session.expunge_all()  # else it keeps them all


def _of(voter: Voter) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (FeedbackRow.tenant_id == voter.tenant_id, FeedbackRow.key_id == voter.key_id)


def _fill(row: FeedbackRow, vote: NewVote, moment: int) -> None:
    row.model, row.revision = vote.model, vote.revision
    row.rating, row.consent, row.changed_ms = vote.rating, vote.consent, moment
    given = vote.evidence
    row.reason, row.corrected_answer = given.reason, given.corrected_answer
    row.conversation, row.images = given.conversation, given.images
    row.subject, row.licence = given.subject, given.licence
