"""What keys have used: added up, listed in pages."""

import asyncio

from services.store.database import Database
from services.store.models import UsageRow
from services.store.usage_records import (
    UsagePlace,
    UsageQuestion,
    add_usage,
    list_usage,
    tokens_since,
)


def place(day: str = "2026-11-29", key: str = "k", tenant: str = "a", model: str = "m"):
    return UsagePlace(day, key, tenant, model)


async def listed(database: Database, **asked: object) -> list[UsageRow]:
    question = {
        "tenant_id": None, "start": "0001-01-01", "end": "9999-12-31", "key_id": None,
        "model": None, "limit": 100, **asked,
    }  # fmt: skip
    async with database.begin() as session:
        return await list_usage(session, UsageQuestion(**question))


async def test_what_is_added_twice_is_summed(database: Database) -> None:
    for _ in range(2):
        async with database.begin() as session:
            await add_usage(session, {place(): (1, 0, 10, 4, 5), place(model="n"): (2, 1, 0, 0, 0)})

    n, m = await listed(database)
    assert (m.requests, m.errors, m.prompt_tokens, m.image_tokens, m.completion_tokens) == (
        2, 0, 20, 8, 10,
    )  # fmt: skip
    assert (n.requests, n.errors) == (4, 2)


async def test_gateways_add_at_once_without_losing_anything(database: Database) -> None:
    async def add(order: int) -> None:
        places = [place(model=f"m{i}") for i in range(5)][::order]
        async with database.begin() as session:
            await add_usage(session, dict.fromkeys(places, (1, 0, 1, 0, 1)))

    await asyncio.gather(*(add(order) for order in (1, -1) * 4))

    assert [row.requests for row in await listed(database)] == [8] * 5


async def test_rows_are_chosen_by_tenant_key_model_and_day(database: Database) -> None:
    places = [
        place("2026-11-27"), place("2026-11-28", key="l"), place("2026-11-29", tenant="b"),
        place("2026-11-30", model="n"),
    ]  # fmt: skip
    async with database.begin() as session:
        await add_usage(session, dict.fromkeys(places, (1, 0, 1, 0, 1)))

    def days(rows: list[UsageRow]) -> list[str]:
        return [row.day[-2:] for row in rows]

    assert days(await listed(database)) == ["30", "29", "28", "27"]
    assert days(await listed(database, tenant_id="a")) == ["30", "28", "27"]
    assert days(await listed(database, key_id="l")) == ["28"]
    assert days(await listed(database, model="n")) == ["30"]
    assert days(await listed(database, start="2026-11-28", end="2026-11-29")) == ["29", "28"]


async def test_pages_meet_without_gap_or_overlap(database: Database) -> None:
    places = [place(f"2026-11-{day}", key=key) for day in (28, 29) for key in "kl"]
    async with database.begin() as session:
        await add_usage(session, dict.fromkeys(places, (1, 0, 1, 0, 1)))
    first = await listed(database, limit=2)
    last = first[1]
    after = UsagePlace(last.day, last.key_id, last.tenant_id, last.model)
    rest = await listed(database, limit=2, after=after)

    assert len(first) == 3
    assert [(r.day, r.key_id) for r in [*first[:2], *rest]] == [
        ("2026-11-29", "l"), ("2026-11-29", "k"), ("2026-11-28", "l"), ("2026-11-28", "k"),
    ]  # fmt: skip


async def test_tokens_of_a_month_are_those_of_its_days(database: Database) -> None:
    async with database.begin() as session:
        await add_usage(session, {
            place("2026-10-31"): (1, 0, 1000, 0, 1000),
            place("2026-11-01"): (1, 0, 100, 90, 10),
            place("2026-11-02", model="n"): (1, 0, 20, 0, 2),
            place("2026-11-02", key="l"): (1, 0, 7, 0, 7),
        })  # fmt: skip
        total = await tokens_since(session, "k", "2026-11-01")
        nothing = await tokens_since(session, "none", "2026-11-01")

    assert total == 132
    assert nothing == 0
