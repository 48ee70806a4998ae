"""Queries of files: each asks for a tenant, and sees nobody else's.

A file that has expired is found only by who says that it may be: its content may be there still.
What does *not* live here: their content (`file_store.py`).
"""

import secrets
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.clock import now_ms
from services.store.models import FileRow

_GRACE_MS = 60_000
"""Between the end of a file and its removal: for a request, or a new job, that has found it."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose content is in the file store already.

    Args:
        lifetime_s: after which it expires; None: never.
    """

    id: str
    tenant_id: str
    filename: str
    purpose: str
    num_bytes: int
    sha256: str
    key: str
    num_lines: int = 0
    model: str = ""
    lifetime_s: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list to give.

    Args:
        after: the id that the last page ended with; "": the first page.
    """

    limit: int
    after: str = ""
    is_ascending: bool = False


def new_file_id() -> str:
    """Draw an id that nobody can guess."""
    return f"file-{secrets.token_hex(12)}"


async def add_file(session: AsyncSession, file: NewFile) -> FileRow:
    """Keep a file's record."""
    created_ms = await session.scalar(select(now_ms())) or 0
    row = FileRow(
        id=file.id,
        tenant_id=file.tenant_id,
        filename=file.filename[:255],
        purpose=file.purpose,
        num_bytes=file.num_bytes,
        sha256=file.sha256,
        key=file.key,
        num_lines=file.num_lines,
        model=file.model,
        created_ms=created_ms,
        expires_ms=None if file.lifetime_s is None else created_ms + file.lifetime_s * 1000,
    )
    session.add(row)
    return row


async def find_file(
    session: AsyncSession, tenant_id: str, file_id: str, *, may_be_expired: bool = False
) -> FileRow | None:
    """Return a tenant's file; None: there is none of this id.

    Args:
        may_be_expired: for who has a right to its content as long as it is there.
    """
    query = select(FileRow).where(FileRow.id == file_id, FileRow.tenant_id == tenant_id)
    return await session.scalar(query if may_be_expired else query.where(_is_alive()))


async def list_files(
    session: AsyncSession, tenant_id: str, purpose: str | None, page: Page
) -> list[FileRow] | None:
    """Return a page of a tenant's files, and one more if there are more; None: no such `after`."""
    query = select(FileRow).where(FileRow.tenant_id == tenant_id, _is_alive())
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    place = tuple_(FileRow.created_ms, FileRow.id)
    if page.after:
        last = await find_file(session, tenant_id, page.after, may_be_expired=True)
        if last is None:
            return None
        there = (last.created_ms, last.id)
        query = query.where(place > there if page.is_ascending else place < there)
    columns = (FileRow.created_ms, FileRow.id)
    query = query.order_by(*(c.asc() if page.is_ascending else c.desc() for c in columns))
    return list(await session.scalars(query.limit(page.limit + 1)))


async def remove_file(session: AsyncSession, tenant_id: str, file_id: str) -> FileRow | None:
    """Remove a file's record; returns what it was."""
    query = (
        delete(FileRow)
        .where(FileRow.id == file_id, FileRow.tenant_id == tenant_id)
        .returning(FileRow)
    )
    return await session.scalar(query)


async def expired_files(
    session: AsyncSession,
    purpose: str,
    age_ms: int | None,
    most: int,
    after: FileRow | None = None,
) -> list[FileRow]:
    """Return the oldest files whose time is over, whoever's.

    Args:
        purpose, age_ms: how old files of this purpose become of which no end is said; None: as old
            as may be.
        after: the last one of the page before.
    """
    is_over = FileRow.expires_ms <= now_ms() - _GRACE_MS
    if age_ms is not None:
        is_old = and_(FileRow.purpose == purpose, FileRow.created_ms < now_ms() - age_ms)
        is_over = or_(is_over, and_(FileRow.expires_ms.is_(None), is_old))
    query = select(FileRow).where(is_over)
    place = tuple_(FileRow.created_ms, FileRow.id)
    if after is not None:
        query = query.where(place > (after.created_ms, after.id))
    query = query.order_by(FileRow.created_ms, FileRow.id).limit(most)
    return list(await session.scalars(query))


def _is_alive() -> ColumnElement[bool]:
    return or_(FileRow.expires_ms.is_(None), FileRow.expires_ms > now_ms())
