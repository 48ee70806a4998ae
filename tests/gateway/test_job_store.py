"""A database that is away is told apart from one that was used wrongly."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, StatementError

from services.gateway.error_handlers import known_error
from services.gateway.job_store import JobStore
from services.protocol.errors import ErrorCode, UnavailableError
from services.store.models import AuditAnchorRow
from services.store.settings import StoreSettings

ANCHOR = {"chain": "c", "number": 1, "hash": "", "removed_ms": 0}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = JobStore(StoreSettings(dir=tmp_path / "store"))
    yield store
    await store.close()


async def test_a_row_that_is_there_already_is_a_bug_and_leaves_nothing(store: JobStore) -> None:
    async def add(chain: str) -> None:
        async with store.begin() as session:
            values = {**ANCHOR, "chain": chain}
            await session.execute(insert(AuditAnchorRow).values(**values))
            await session.execute(insert(AuditAnchorRow).values(**values))

    with pytest.raises(IntegrityError) as caught:
        await add("d")

    assert known_error(caught.value).code == ErrorCode.INTERNAL_ERROR  # 500, and logged
    async with store.begin() as session:
        assert await session.scalar(select(AuditAnchorRow)) is None


async def test_a_statement_that_cannot_be_is_a_bug(store: JobStore) -> None:
    async def bind_too_little() -> None:
        async with store.begin() as session:
            await session.execute(text("SELECT :missing"))

    async def ask_for_nothing() -> None:
        async with store.begin() as session:
            await session.get_one(AuditAnchorRow, "nobody")

    with pytest.raises(StatementError) as caught:
        await bind_too_little()
    assert not isinstance(caught.value, DBAPIError)
    with pytest.raises(InvalidRequestError):
        await ask_for_nothing()


async def test_a_database_that_is_away_is_503(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, where a folder should be")
    store = JobStore(StoreSettings(dir=tmp_path / "store"))

    with pytest.raises(UnavailableError) as caught:
        async with store.begin():
            pass

    assert caught.value.code == ErrorCode.STORAGE_UNAVAILABLE


async def test_a_database_that_cannot_do_its_work_is_503(store: JobStore) -> None:
    with pytest.raises(UnavailableError):
        async with store.begin() as session:  # SQLite's word for trouble of any kind
            await session.execute(text("SELECT * FROM a_table_that_went_away"))
