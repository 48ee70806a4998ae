import hashlib
import json

import msgspec
import pytest
from sqlalchemy import delete, func, insert, select, update

from services.store.audit_chain import AuditChain, AuditRecord, ChainCheck, chained, hash_of
from services.store.audit_records import (
    AuditFilter,
    add_records,
    find_record,
    list_chains,
    list_records,
    place_of,
    remove_older,
)
from services.store.database import Database
from services.store.models import AuditRow

NEWER = {"object", "previous_hash", "hash"}  # what the first version's hash does not cover


def record(number: int, chain: str = "g1", **fields: object) -> AuditRecord:
    values: dict = {
        "chain": chain, "number": number, "at_ms": 1000 * number, "request_id": f"{chain}-{number}",
        "tenant_id": "clinic", "key_id": None, "method": "POST", "route": "/v1/chat/completions",
        "model": "m", "revision": "r", "images": ["a" * 64], "prompt_hash": "p" * 64,
        "parameters_hash": "q" * 64, "status": 200, "code": "", "finish_reason": "stop",
        "prompt_tokens": 10, "completion_tokens": 5, "duration_ms": 7, **fields,
    }  # fmt: skip
    return AuditRecord(**values)


def chain_of(*records: AuditRecord) -> list[AuditRecord]:
    made: list[AuditRecord] = []
    for each in records:
        made.append(chained(each, made[-1].hash if made else "0" * 64))
    return made


async def keep(database: Database, records: list[AuditRecord]) -> None:
    async with database.begin() as session:
        await add_records(session, records)


async def problem_of(database: Database, name: str = "g1") -> str:
    async with database.begin() as session:
        (chain,) = [c for c in await list_chains(session) if c.chain == name]
        wanted = AuditFilter(chain=name)
        records = await list_records(session, wanted, limit=99, after="", is_ascending=True) or []
    check = ChainCheck(chain)
    for each in records:
        check.add(each)
    return check.problem


async def test_records_come_back_as_they_were_added_and_their_chain_holds(
    database: Database,
) -> None:
    records = chain_of(*(record(n) for n in range(1, 6)))

    await keep(database, records)

    async with database.begin() as session:
        found = await list_records(session, AuditFilter(), limit=9, after="", is_ascending=True)
    assert found == records
    assert await problem_of(database) == ""


async def test_a_batch_that_is_written_twice_is_there_once(database: Database) -> None:
    records = chain_of(*(record(n) for n in range(1, 6)))

    await keep(database, records[:3])
    await keep(database, records)

    async with database.begin() as session:
        assert await session.scalar(select(func.count()).select_from(AuditRow)) == 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            update(AuditRow).where(AuditRow.number == 3).values(tenant_id="x"),
            "record 3 was changed",
        ),
        (delete(AuditRow).where(AuditRow.number == 3), "record 3 is missing"),
        (delete(AuditRow).where(AuditRow.number == 1), "record 1 is missing"),
        (
            update(AuditRow).where(AuditRow.number == 3).values(previous_hash="f" * 64),
            "record 3 does not follow the one before it",
        ),
        (update(AuditRow).where(AuditRow.number == 3).values(object="x"), "record 3 was changed"),
    ],
)
async def test_what_was_tampered_with_is_found(
    database: Database, change: object, problem: str
) -> None:
    await keep(database, chain_of(*(record(n) for n in range(1, 6))))
    async with database.begin() as session:
        await session.execute(change)  # pyright: ignore[reportArgumentType, reportCallIssue] - either statement

    assert await problem_of(database) == problem


def test_without_an_object_a_record_hashes_as_in_earlier_versions() -> None:
    old = record(1)
    fields = [v for k, v in msgspec.structs.asdict(old).items() if k not in NEWER]
    text = "f" * 64 + json.dumps(fields, separators=(",", ":"))

    assert len(fields) == 19
    assert hash_of(old, "f" * 64) == hashlib.sha256(text.encode()).hexdigest()
    named = msgspec.structs.replace(old, object="file-1")
    other = msgspec.structs.replace(old, object="file-2")
    assert len({hash_of(each, "") for each in (old, named, other)}) == 3


async def test_a_gateway_of_the_version_before_writes_on(database: Database) -> None:
    await keep(database, chain_of(record(1)))
    second = chained(record(2), chain_of(record(1))[0].hash)
    known = {k: v for k, v in msgspec.structs.asdict(second).items() if k != "object"}
    async with database.begin() as session:
        await session.execute(insert(AuditRow).values(**known))

    assert await problem_of(database) == ""


def test_a_record_with_a_hash_of_its_own_making_does_not_fit_the_next() -> None:
    first, second, third = chain_of(record(1), record(2), record(3))
    forged = chained(msgspec.structs.replace(second, tenant_id="x"), first.hash)
    check = ChainCheck(AuditChain("g1", 1, 3))

    assert [check.add(each) for each in (first, forged, third)] == [True, True, False]
    assert check.problem == "record 3 does not follow the one before it"


async def test_retention_takes_the_beginning_and_leaves_an_anchor(database: Database) -> None:
    await keep(database, chain_of(*(record(n) for n in range(1, 6))))
    await keep(database, chain_of(*(record(n, "g2") for n in range(1, 3))))

    removed = 0
    async with database.begin() as session:
        while taken := await remove_older(session, 3500):
            removed += taken
    async with database.begin() as session:
        chains = await list_chains(session)

    assert removed == 5
    assert [(c.chain, c.first, c.last, c.anchor_number) for c in chains] == [
        ("g1", 4, 5, 3), ("g2", 0, 0, 2),
    ]  # fmt: skip
    assert await problem_of(database) == ""
    async with database.begin() as session:  # again, from the anchor on
        assert await remove_older(session, 4500) == 1
        assert await remove_older(session, 4500) == 0
    assert await problem_of(database) == ""


async def test_a_chain_whose_anchor_was_taken_does_not_hold(database: Database) -> None:
    await keep(database, chain_of(*(record(n) for n in range(1, 6))))
    async with database.begin() as session:
        await session.execute(delete(AuditRow).where(AuditRow.number < 3))

    assert await problem_of(database) == "record 1 is missing"


async def test_filters_and_pages(database: Database) -> None:
    await keep(database, chain_of(record(1), record(2, tenant_id="b"), record(3, code="timeout")))
    await keep(database, chain_of(record(1, "g2", key_id="k", model="n")))
    names = ("file-1", "file-1/content", "file_1", "xfile-1", "file-10")
    named = [record(n, "g3", tenant_id="c", object=name) for n, name in enumerate(names, 1)]

    async def ids(wanted: AuditFilter, **page: object) -> list[str] | None:
        options: dict = {"limit": 9, "after": "", "is_ascending": True, **page}
        async with database.begin() as session:
            found = await list_records(session, wanted, **options)
        return None if found is None else [place_of(each) for each in found]

    assert await ids(AuditFilter()) == ["g1:1", "g2:1", "g1:2", "g1:3"]
    assert await ids(AuditFilter(), is_ascending=False, limit=1) == ["g1:3", "g1:2"]  # one more
    assert await ids(AuditFilter(), after="g2:1") == ["g1:2", "g1:3"]
    assert await ids(AuditFilter(), after="g2:7") is None
    assert await ids(AuditFilter(), after="nothing") is None
    assert await ids(AuditFilter(tenant_id="b")) == ["g1:2"]
    assert await ids(AuditFilter(key_id="k")) == ["g2:1"]
    assert await ids(AuditFilter(model="n")) == ["g2:1"]
    assert await ids(AuditFilter(request_id="g1-3")) == ["g1:3"]
    assert await ids(AuditFilter(is_failed=True)) == ["g1:3"]
    assert await ids(AuditFilter(is_failed=False, chain="g1")) == ["g1:1", "g1:2"]
    assert await ids(AuditFilter(code="timeout")) == ["g1:3"]
    assert await ids(AuditFilter(since_ms=2000, until_ms=3000)) == ["g1:2"]
    await keep(database, chain_of(*named))
    assert await ids(AuditFilter(object="file-1")) == ["g3:1", "g3:2"]
    assert await ids(AuditFilter(object="content")) == ["g3:2"]
    assert await ids(AuditFilter(object="file_1")) == ["g3:3"]
    assert await ids(AuditFilter(object="file")) == []


async def test_a_request_is_found_for_its_tenant_only(database: Database) -> None:
    await keep(database, chain_of(record(1)))

    async with database.begin() as session:
        assert await find_record(session, "clinic", "g1-1") is not None
        assert await find_record(session, "other", "g1-1") is None
