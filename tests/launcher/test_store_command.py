"""`galen store migrate` on a store of its own, and on one that is not there."""

import sqlite3
from pathlib import Path

import pytest

from services.launcher.store_command import migrate_store
from services.launcher.terminal import CommandError


def test_an_empty_store_gets_its_schema_once(tmp_path: Path) -> None:
    first = migrate_store(tmp_path)

    with sqlite3.connect(tmp_path / "galen.db") as database:
        revision = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert revision in first
    assert "files" in tables
    assert migrate_store(tmp_path) == first


def test_a_database_that_is_away_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GALEN_STORE_DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/name")

    with pytest.raises(CommandError) as told:
        migrate_store(None)

    assert "cannot be opened" in str(told.value)
    assert "secret" not in str(told.value)
