"""The one chain of the commands that work on keys: it goes on, also behind its anchor."""

import asyncio

import pytest

from services.store.audit_chain import BEGINNING, AuditRecord, ChainCheck
from services.store.audit_records import AuditFilter, list_chains, list_records, remove_older
from services.store.database import Database
from services.store.key_audit import CHAIN, note_command

FAR_MS = 1 << 50


async def note(database: Database, name: str = "galen_1") -> None:
    async with database.begin() as session:
        await note_command(session, "galen keys create", "clinic", name)


async def checked(database: Database) -> list[AuditRecord]:
    """Return what is kept of the chain, which must hold."""
    wanted = AuditFilter(chain=CHAIN)
    async with database.begin() as session:
        (chain,) = await list_chains(session)
        found = await list_records(session, wanted, limit=99, after="", is_ascending=True) or []
    check = ChainCheck(chain)
    assert all(check.add(each) for each in found), check.problem
    return found


async def test_a_record_names_the_command_the_key_and_its_tenant(database: Database) -> None:
    await note(database)

    (record,) = await checked(database)
    assert (record.method, record.route, record.object) == ("CLI", "galen keys create", "galen_1")
    assert (record.tenant_id, record.key_id, record.status) == ("clinic", None, 200)
    assert (record.number, record.previous_hash) == (1, BEGINNING)
    assert record.at_ms > 1_700_000_000_000


async def test_many_commands_at_once_make_one_chain(database: Database) -> None:
    await asyncio.gather(*(note(database, f"galen_{n}") for n in range(8)))

    found = await checked(database)
    assert [each.number for each in found] == list(range(1, 9))
    assert {each.object for each in found} == {f"galen_{n}" for n in range(8)}


async def test_the_chain_goes_on_behind_its_anchor(database: Database) -> None:
    for _ in range(3):
        await note(database)
    async with database.begin() as session:
        assert await remove_older(session, FAR_MS) == 3

    await note(database)

    (record,) = await checked(database)
    assert record.number == 4


async def test_what_fails_is_not_recorded(database: Database) -> None:
    async def fail() -> None:
        async with database.begin() as session:
            await note_command(session, "galen keys revoke", "clinic", "galen_1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    await note(database, "galen_2")

    assert [each.object for each in await checked(database)] == ["galen_2"]
