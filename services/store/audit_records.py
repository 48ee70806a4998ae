"""Queries of the audit: added and read; nothing is changed, and only retention removes.

What does *not* live here: what a record is, and its chain (`audit_chain.py`).
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.audit_chain import BEGINNING, AuditAnchor, AuditChain, AuditRecord
from services.store.clock import now_ms
from services.store.models import AuditAnchorRow, AuditRow

MOST_REMOVED = 5_000
"""Records of one transaction of retention: others write in between."""

_FIELDS = AuditRecord.__struct_fields__
_PLACE = (AuditRow.at_ms, AuditRow.chain, AuditRow.number)


class AuditFilter(msgspec.Struct, frozen=True):
    """Which records are asked for; None: all.

    Args:
        since_ms: the first moment.
        until_ms: the moment behind the last.
        is_failed: whether they ended with an error.
        code: of the error.
        object: the whole of it, or parts of it between slashes.
    """

    tenant_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    request_id: str | None = None
    chain: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    is_failed: bool | None = None
    code: str | None = None
    object: str | None = None


async def add_records(session: AsyncSession, records: Sequence[AuditRecord]) -> None:
    """Add records of one chain, in order; those that an earlier call has added are passed over."""
    query = select(func.max(AuditRow.number)).where(AuditRow.chain == records[0].chain)
    last = await session.scalar(query) or 0
    rows = [msgspec.structs.asdict(record) for record in records if record.number > last]
    if rows:
        await session.execute(insert(AuditRow), rows)


async def find_record(session: AsyncSession, tenant_id: str, request_id: str) -> AuditRecord | None:
    """Return the record of a tenant's request; None: there is none."""
    query = select(AuditRow).where(
        AuditRow.request_id == request_id, AuditRow.tenant_id == tenant_id
    )
    row = await session.scalar(query.limit(1))
    return None if row is None else _record(row)


async def list_records(
    session: AsyncSession, wanted: AuditFilter, *, limit: int, after: str, is_ascending: bool
) -> list[AuditRecord] | None:
    """Return a page of records, and one more if there are more; None: no such `after`.

    Args:
        after: `place_of` the last record of the page before; "": the first page.
    """
    query = select(AuditRow).where(*_conditions(wanted))
    if after:
        there = await _place(session, after)
        if there is None:
            return None
        place = tuple_(*_PLACE)
        query = query.where(place > there if is_ascending else place < there)
    query = query.order_by(*(c.asc() if is_ascending else c.desc() for c in _PLACE))
    return [_record(row) for row in await session.scalars(query.limit(limit + 1))]


def place_of(record: AuditRecord) -> str:
    """Return the name of a record: chain and number."""
    return f"{record.chain}:{record.number}"


async def list_chains(session: AsyncSession) -> list[AuditChain]:
    """Return every chain, those included of which nothing is left but its anchor."""
    spans = select(AuditRow.chain, func.min(AuditRow.number), func.max(AuditRow.number))
    kept = {
        chain: (first, last)
        for chain, first, last in (await session.execute(spans.group_by(AuditRow.chain))).all()
    }
    anchors = {row.chain: row for row in await session.scalars(select(AuditAnchorRow))}
    chains: list[AuditChain] = []
    for chain in sorted(kept.keys() | anchors.keys()):
        first, last = kept.get(chain, (0, 0))
        anchor = anchors.get(chain)
        number, hash_ = (0, BEGINNING) if anchor is None else (anchor.number, anchor.hash)
        chains.append(AuditChain(chain, first, last, number, hash_))
    return chains


async def remove_older(session: AsyncSession, before_ms: int) -> int:
    """Remove up to `MOST_REMOVED` records of one chain that ended earlier; returns how many.

    What goes is a chain's beginning, never its middle; an anchor says where the rest goes on.
    """
    found = await session.scalar(
        select(AuditRow).where(AuditRow.at_ms < before_ms).order_by(*_PLACE).limit(1)
    )
    if found is None:
        return 0
    ours = AuditRow.chain == found.chain
    first = await session.scalar(select(func.min(AuditRow.number)).where(ours)) or 0
    span = select(func.max(AuditRow.number)).where(
        ours, AuditRow.at_ms < before_ms, AuditRow.number < first + MOST_REMOVED
    )
    last = await session.scalar(span) or 0
    hash_ = await session.scalar(select(AuditRow.hash).where(ours, AuditRow.number == last))
    if hash_ is None:  # another gateway was faster
        return 0
    removed = await session.execute(
        delete(AuditRow).where(ours, AuditRow.number <= last).returning(AuditRow.number)
    )
    moment = await session.scalar(select(now_ms())) or 0
    await _leave_anchor(session, AuditAnchor(found.chain, last, hash_, moment))
    return len(removed.all())


async def _leave_anchor(session: AsyncSession, anchor: AuditAnchor) -> None:
    values = msgspec.structs.asdict(anchor)
    known = await session.scalar(
        update(AuditAnchorRow)
        .where(AuditAnchorRow.chain == anchor.chain)
        .values(**values)
        .returning(AuditAnchorRow.number)
    )
    if known is None:
        await session.execute(insert(AuditAnchorRow).values(**values))


async def _place(session: AsyncSession, name: str) -> tuple[int, str, int] | None:
    chain, _, number = name.rpartition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        return None
    at_ms = await session.scalar(
        select(AuditRow.at_ms).where(AuditRow.chain == chain, AuditRow.number == int(number))
    )
    return None if at_ms is None else (at_ms, chain, int(number))


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    equal = {
        AuditRow.tenant_id: wanted.tenant_id,
        AuditRow.key_id: wanted.key_id,
        AuditRow.model: wanted.model,
        AuditRow.request_id: wanted.request_id,
        AuditRow.chain: wanted.chain,
        AuditRow.code: wanted.code,
    }
    found: list[ColumnElement[bool]] = [c == v for c, v in equal.items() if v is not None]
    if wanted.since_ms is not None:
        found.append(AuditRow.at_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        found.append(AuditRow.at_ms < wanted.until_ms)
    if wanted.object is not None:
        parts = "/" + AuditRow.object + "/"
        found.append(parts.contains(f"/{wanted.object}/", autoescape=True))
    if wanted.is_failed is not None:
        found.append(AuditRow.code != "" if wanted.is_failed else AuditRow.code == "")
    return found


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(**{name: getattr(row, name) for name in _FIELDS})
