"""`galen keys` on a store of its own: what it changes is in the audit, or it changes nothing."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.launcher.key_commands import KeyCommands
from services.launcher.terminal import CommandError
from services.store.audit_chain import AuditRecord, ChainCheck
from services.store.audit_records import AuditFilter, list_chains, list_records
from services.store.database import Database
from services.store.file_records import Page
from services.store.key_records import list_keys
from services.store.models import KeyRow
from services.store.settings import StoreSettings


def run(folder: Path, command: Callable[[KeyCommands], None]) -> None:
    with KeyCommands(folder) as commands:
        command(commands)


def create(folder: Path, tenant: str = "clinic") -> None:
    run(folder, lambda commands: commands.create({"name": "ward 3", "tenant": tenant}))


def kept(folder: Path) -> tuple[list[KeyRow], list[AuditRecord]]:
    """Return keys, the oldest first, and the records of the audit, whose chain must hold."""

    async def read() -> tuple[list[KeyRow], list[AuditRecord]]:
        database = Database(StoreSettings(dir=folder).database)
        async with database.begin() as session:
            keys = await list_keys(session, None, Page(99)) or []
            wanted = AuditFilter()
            found = await list_records(session, wanted, limit=99, after="", is_ascending=True)
            chains = await list_chains(session)
        await database.close()
        for chain in chains:
            check = ChainCheck(chain)
            assert all(check.add(each) for each in found or ()), check.problem
        return keys[::-1], found or []

    return asyncio.run(read())


def test_each_change_of_a_key_has_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create(tmp_path)
    secret = capsys.readouterr().out.strip()
    ((first,), _) = kept(tmp_path)
    run(tmp_path, lambda commands: commands.rotate(first.id, 60))
    run(tmp_path, lambda commands: commands.revoke(first.id))

    keys, records = kept(tmp_path)
    (second,) = [each for each in keys if each.id != first.id]
    assert [(each.route, each.object) for each in records] == [
        ("galen keys create", first.id),
        ("galen keys rotate", f"{first.id}/rotate/{second.id}"),
        ("galen keys revoke", first.id),
    ]
    assert {(each.chain, each.method, each.tenant_id) for each in records} == {
        ("galen-keys", "CLI", "clinic")
    }
    assert secret.rpartition("_")[2] not in str(records)


def test_what_changes_nothing_is_not_recorded(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(CommandError, match="no key"):
        run(tmp_path, lambda commands: commands.revoke("galen_none"))
    with pytest.raises(CommandError, match="no key"):
        run(tmp_path, lambda commands: commands.rotate("galen_none", 60))

    assert [each.route for each in kept(tmp_path)[1]] == ["galen keys create"]


def test_a_key_that_cannot_be_recorded_is_not_made(tmp_path: Path) -> None:
    create(tmp_path)
    with sqlite3.connect(tmp_path / "galen.db") as database:
        database.execute("ALTER TABLE audit RENAME TO elsewhere")
    database.close()

    with pytest.raises(CommandError, match="the database failed") as caught:
        create(tmp_path)

    assert "\n" not in str(caught.value)
    with sqlite3.connect(tmp_path / "galen.db") as database:
        database.execute("ALTER TABLE elsewhere RENAME TO audit")
    database.close()
    assert [len(each) for each in kept(tmp_path)] == [1, 1]


def test_commands_at_once_leave_one_chain(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: create(tmp_path, f"t{number}"), range(4)))

    keys, records = kept(tmp_path)
    assert [each.number for each in records] == [1, 2, 3, 4]
    assert {each.object for each in records} == {each.id for each in keys}
