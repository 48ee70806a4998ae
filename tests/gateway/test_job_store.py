"""A database that is away is told apart from one that was used wrongly."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, StatementError

from services.gateway import job_store
from services.gateway.error_handlers import known_error
from services.gateway.job_store import JobStore, unbroken
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


# ------------------------------------------------------------------------- work that is not broken


async def test_cancelled_work_is_done_to_its_end() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def write() -> None:
        begun.set()
        await may_end.wait()
        done.append("written")

    loop = asyncio.create_task(unbroken(write()))
    await begun.wait()
    loop.cancel()
    await asyncio.sleep(0)
    assert not loop.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await loop

    assert done == ["written"]


async def test_cancelled_work_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "_LAST_WORK_S", 0.01)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    loop = asyncio.create_task(unbroken(write()))
    await begun.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_failure_of_the_last_work_does_not_hide_the_end() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        begun.set()
        await may_end.wait()
        raise OSError

    loop = asyncio.create_task(unbroken(write()))
    await begun.wait()
    loop.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_work_gives_what_it_returns_and_raises() -> None:
    async def work(number: int) -> int:
        return 6 // number

    assert await unbroken(work(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await unbroken(work(0))
