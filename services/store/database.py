"""The database: SQLite in one file (WAL), or PostgreSQL; brought to its newest schema when opened.

What does *not* live here: tables (`models.py`), queries (`*_records.py`).
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from alembic import command
from alembic.config import Config
from alembic.util import CommandError as MigrationError
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_BESIDE = ("-wal", "-shm", ".lock")
_BUSY_MS = 15_000
"""How long a writer of SQLite waits for another one."""
_MIGRATION_LOCK = 0x47414C45
"""Of PostgreSQL: any number, the same in all our processes."""
_CONNECT_S = 10


class DatabaseError(Exception):
    """The database cannot be used; one line, which holds no password."""


DATABASE_AWAY = (SQLAlchemyError, DatabaseError, OSError)
"""What a query raises while the database cannot do its work, and where it is wrong (`is_away`)."""
_WRONG = (IntegrityError, ProgrammingError, DataError, NotSupportedError)
"""Of a database's answers, those that say that it understood, and that our statement cannot be."""


def is_away(error: BaseException) -> bool:
    """Whether the database cannot do its work, as far as one can see; else it was used wrongly."""
    if isinstance(error, DBAPIError):
        return not isinstance(error, _WRONG)
    return isinstance(error, PoolTimeoutError) or not isinstance(error, SQLAlchemyError)


class Database:
    """Open it with `open`; close it at the end.

    Args:
        url: SQLAlchemy's, of SQLite or PostgreSQL; the driver may be left out.
    """

    def __init__(self, url: str) -> None:
        self._url = _with_driver(url)
        self.is_sqlite = self._url.startswith("sqlite")
        self._engine = _engine_of(self._url)

    async def open(self) -> None:
        """Bring the schema up to date; raises DatabaseError, with no connection left."""
        try:
            await self._open()
        except DatabaseError:
            await self.close()
            raise

    async def _open(self) -> None:
        try:
            if self.is_sqlite:
                await asyncio.to_thread(self._make_private_file)
            await self._migrate()
        except MigrationError as error:  # a revision that is not among ours
            raise DatabaseError(
                "the database is of a newer galen: upgrade this one, or restore an earlier backup"
            ) from error
        except (SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            raise DatabaseError(f"the database cannot be opened: {_cause(error)}") from error

    async def revision(self) -> str:
        """Return the name of its schema, which is that of the last migration."""
        async with self.begin() as session:
            return str(await session.scalar(text("SELECT version_num FROM alembic_version")))

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:
        """Give a session whose work is written wholly, at the end, or not at all."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _make_private_file(self) -> None:
        """Make the file its owner's only, whatever umask it meets; SQLite's others follow it."""
        name = make_url(self._url).database
        if not name or name == ":memory:" or name.startswith("file:"):
            return
        file = Path(name)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        for each in (file, *(file.with_name(file.name + end) for end in _BESIDE)):
            with suppress(FileNotFoundError, PermissionError):  # a private one of another user
                if each.stat().st_mode & 0o077:
                    each.chmod(0o600)

    async def _migrate(self) -> None:
        if self.is_sqlite:
            file = make_url(self._url).database or "galen.db"
            with await asyncio.to_thread(_locked, Path(f"{file}.lock")):
                async with self._engine.begin() as connection:
                    await connection.run_sync(_upgrade)
            return
        async with self._engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            await connection.run_sync(_upgrade)


def _with_driver(url: str) -> str:
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if kind not in _DRIVERS:
        raise DatabaseError(
            f"a database's address begins with sqlite:// or postgresql://, not with {scheme[:20]!r}"
        )
    return f"{_DRIVERS[kind]}://{rest}"


def _engine_of(url: str) -> AsyncEngine:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if not url.startswith("sqlite"):
        options["connect_args"] = {"timeout": _CONNECT_S}
    try:
        engine = create_async_engine(url, **options)
    except (ArgumentError, NoSuchModuleError, ValueError):  # whose texts quote it
        raise DatabaseError("the database's address cannot be read") from None
    except ModuleNotFoundError as error:
        raise DatabaseError("PostgreSQL needs its driver: pip install 'galen[postgres]'") from error
    if url.startswith("sqlite"):
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_at_once)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's
    connection.isolation_level = None  # else the driver begins transactions late, as it likes
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",  # what was committed survives the loss of power
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_at_once(connection: Connection) -> None:
    """Take the write lock first: one taken later may fail at once instead of waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _locked(path: Path) -> TextIO:
    """Open a file that nobody else has; waits until then."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _cause(error: Exception) -> str:
    """Return the kind of a cause: its text may hold the address, and so a password."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return type(original).__name__
