"""Every test of the store runs on a SQLite file and on a real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.store.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'folder' / 'galen.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open one, of the newest schema."""
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()
