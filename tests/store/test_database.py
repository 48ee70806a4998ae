import asyncio
import os
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text

from services.store.clock import now_ms
from services.store.database import Database, DatabaseError
from services.store.models import Base


async def test_migrations_make_the_tables_of_the_models(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), Base.metadata)

    async with database.begin() as session:
        assert await (await session.connection()).run_sync(differences) == []


def test_every_table_has_a_tenant() -> None:
    without = [t.name for t in Base.metadata.sorted_tables if "tenant_id" not in t.columns]
    assert without == ["audit_anchors"]  # of gateway processes; they hold a number and a hash


async def test_many_may_open_an_empty_database_at_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]

    await asyncio.gather(*(each.open() for each in databases))

    for each in databases:
        await each.close()


async def test_clock_is_that_of_the_calendar(database: Database) -> None:
    async with database.begin() as session:
        first = await session.scalar(select(now_ms())) or 0
        second = await session.scalar(select(now_ms())) or 0

    assert 0 <= second - first < 60_000
    assert first > 1_700_000_000_000  # a day of 2023


async def test_sqlite_keeps_what_was_committed_through_a_loss_of_power(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'galen.db'}")
    await database.open()

    async with database.begin() as session:
        mode = await session.scalar(text("PRAGMA journal_mode"))
        synchronous = await session.scalar(text("PRAGMA synchronous"))
    await database.close()

    assert (mode, synchronous) == ("wal", 2)  # FULL


async def test_a_failed_unit_of_work_leaves_nothing(database: Database) -> None:
    async def write_and_fail() -> None:
        async with database.begin() as session:
            values = "('f', 't', 'n', 'p', 1, 's', 'k', 1, 'm', 1, NULL)"
            await session.execute(text(f"INSERT INTO files VALUES {values}"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_and_fail()

    async with database.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM files")) == 0


@pytest.mark.parametrize(
    "url", ["mysql://host/name", "nothing", "postgresql://user:secret@host:port/name"]
)
def test_an_unusable_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        Database(url)

    assert "secret" not in str(caught.value)


async def test_an_absent_server_is_told_without_its_password() -> None:
    database = Database("postgresql://user:secret@127.0.0.1:1/name")

    with pytest.raises(DatabaseError) as caught:
        await database.open()
    await database.close()

    assert "secret" not in str(caught.value)


async def test_sqlites_files_are_their_owners_only_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    before = os.umask(0o022)
    try:
        database = Database(f"sqlite:///{folder / 'galen.db'}")
        await database.open()
        async with database.begin() as session:
            await session.execute(text("SELECT 1"))
            files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
        await database.close()
    finally:
        os.umask(before)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {"galen.db", "galen.db-wal", "galen.db-shm"} <= set(files)
    assert set(files.values()) == {0o600}


async def test_a_database_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    file = tmp_path / "galen.db"
    file.touch(mode=0o644)
    file.chmod(0o644)
    database = Database(f"sqlite:///{file}")

    await database.open()
    await database.close()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
