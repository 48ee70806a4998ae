"""Queries of what keys have used.

What does *not* live here: counting (`gateway/access/usage.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.models import UsageRow

COUNTERS = ("requests", "errors", "prompt_tokens", "image_tokens", "completion_tokens")
_KEY = ("day", "key_id", "tenant_id", "model")


@dataclass(frozen=True, slots=True)
class UsagePlace:
    """Whose use of what on which day; `key_id` "": without a key."""

    day: str
    key_id: str
    tenant_id: str
    model: str


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Which rows to give; None: any.

    Args:
        start, end: days, both included.
        after: the last row of the page before.
    """

    tenant_id: str | None
    start: str
    end: str
    key_id: str | None
    model: str | None
    limit: int
    after: UsagePlace | None = None


async def add_usage(session: AsyncSession, used: Mapping[UsagePlace, Iterable[int]]) -> None:
    """Add to the rows of each place; counters come in the order of `COUNTERS`."""
    dialect = session.get_bind().dialect.name
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert  # of two kinds
    # In one order everywhere: two gateways must not wait for each other's rows.
    for place, counts in sorted(used.items(), key=lambda item: _values(item[0])):
        counters = dict(zip(COUNTERS, counts, strict=True))
        statement = insert(UsageRow).values(
            **dict(zip(_KEY, _values(place), strict=True)), **counters
        )
        more = {name: getattr(UsageRow, name) + value for name, value in counters.items()}
        await session.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=more))


async def list_usage(session: AsyncSession, asked: UsageQuestion) -> list[UsageRow]:
    """Return a page of rows, the last day first, and one more if there are more."""
    query = select(UsageRow).where(*_conditions(asked))
    columns = (UsageRow.day, UsageRow.key_id, UsageRow.tenant_id, UsageRow.model)
    if asked.after is not None:
        query = query.where(tuple_(*columns) < _values(asked.after))
    query = query.order_by(*(column.desc() for column in columns)).limit(asked.limit + 1)
    return list(await session.scalars(query))


async def tokens_since(session: AsyncSession, key_id: str, day: str) -> int:
    """Return how many tokens a key has used since the beginning of a day."""
    total = func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens)
    query = select(total).where(UsageRow.key_id == key_id, UsageRow.day >= day)
    return int(await session.scalar(query) or 0)


def _conditions(asked: UsageQuestion) -> list[ColumnElement[bool]]:
    wanted = (
        (UsageRow.tenant_id, asked.tenant_id),
        (UsageRow.key_id, asked.key_id),
        (UsageRow.model, asked.model),
    )
    return [UsageRow.day >= asked.start, UsageRow.day <= asked.end] + [
        column == value for column, value in wanted if value is not None
    ]


def _values(place: UsagePlace) -> tuple[str, str, str, str]:
    return place.day, place.key_id, place.tenant_id, place.model
