"""Files that end: as if they were not there, before anybody has removed them."""

import pytest

from services.store.database import Database
from services.store.file_records import (
    NewFile,
    Page,
    add_file,
    expired_files,
    find_file,
    list_files,
)


def new_file(name: str, lifetime_s: int | None, purpose: str = "batch") -> NewFile:
    return NewFile(name, "t", "a", purpose, 3, "0" * 64, f"files/{name}", lifetime_s=lifetime_s)


async def test_a_file_lives_as_long_as_was_said(database: Database) -> None:
    async with database.begin() as session:
        row = await add_file(session, new_file("a", 3600))
        endless = await add_file(session, new_file("b", None))

    assert row.expires_ms == row.created_ms + 3_600_000
    assert endless.expires_ms is None


@pytest.mark.parametrize("lifetime_s", [0, -3600])
async def test_an_expired_file_is_found_only_by_who_says_so(
    database: Database, lifetime_s: int
) -> None:
    async with database.begin() as session:
        await add_file(session, new_file("gone", lifetime_s))
        await add_file(session, new_file("here", 3600))

    async with database.begin() as session:
        assert await find_file(session, "t", "gone") is None
        assert await find_file(session, "t", "gone", may_be_expired=True) is not None
        assert await find_file(session, "other", "gone", may_be_expired=True) is None
        assert [f.id for f in await list_files(session, "t", None, Page(9)) or []] == ["here"]
        after = Page(9, after="gone")  # it ended between two pages
        assert await list_files(session, "t", None, after) is not None


async def test_what_is_over_for_a_while_or_too_old_is_to_be_removed(database: Database) -> None:
    files = [
        new_file("just over", 0), new_file("over", -3600), new_file("alive", 3600, "vision"),
        new_file("old image", None, "vision"), new_file("old batch", None),
    ]  # fmt: skip
    async with database.begin() as session:
        for each in files:
            await add_file(session, each)

    async def names(age_ms: int | None) -> set[str]:
        async with database.begin() as session:
            return {row.id for row in await expired_files(session, "vision", age_ms, 9)}

    assert await names(None) == {"over"}
    assert await names(3_600_000) == {"over"}
    assert await names(-1000) == {"over", "old image"}
