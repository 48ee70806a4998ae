"""Keys: made, rotated, revoked; and where their pepper comes from."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.protocol.key_limits import KeyLimits
from services.store.database import Database
from services.store.file_records import Page
from services.store.key_records import (
    NewKey,
    add_key,
    changed_keys,
    find_key,
    has_keys,
    limits_of,
    list_keys,
    note_use,
    revoke_key,
    rotate_key,
)
from services.store.key_secrets import JobGrant, KeySecrets, load_secrets
from services.store.settings import StoreSettings

SECRETS = KeySecrets(b"p" * 32)
LIMITS = KeyLimits(60, 10_000, 4, 1_000_000)


def new(name: str = "ward 3", *, tenant: str = "a", expires_in_s: int | None = None) -> NewKey:
    return NewKey(name, tenant, ("chat", "files"), LIMITS, "mask", expires_in_s)


async def test_a_key_begins_with_its_id_and_only_its_hash_is_kept(database: Database) -> None:
    async with database.begin() as session:
        made = await add_key(session, SECRETS, new())
    async with database.begin() as session:
        row = await find_key(session, made.row.id)

    assert row is not None
    key_id, _, secret = made.key.rpartition("_")
    assert key_id == row.id
    assert len(bytes.fromhex(secret)) == 32
    assert row.hash == SECRETS.hash_of(made.key.encode()).hex()
    assert secret not in str(vars(row))
    assert (limits_of(row), row.burned_in, row.scopes) == (LIMITS, "mask", "chat files")


async def test_no_two_keys_are_alike(database: Database) -> None:
    async with database.begin() as session:
        made = [await add_key(session, SECRETS, new()) for _ in range(20)]

    assert len({each.key for each in made}) == len({each.row.id for each in made}) == 20


async def test_rotation_leaves_the_old_key_its_overlap(database: Database) -> None:
    async with database.begin() as session:
        old = (await add_key(session, SECRETS, new(expires_in_s=86_400))).row
    async with database.begin() as session:
        made = await rotate_key(session, SECRETS, old.id, 600)
    async with database.begin() as session:
        before = await find_key(session, old.id)
        now, _ = await changed_keys(session, 0)

    assert made is not None
    assert before is not None
    assert before.replaced_by == made.row.id
    assert before.revoked_ms is None
    assert 0 < (before.expires_ms or 0) - now <= 600_000
    assert (made.row.name, made.row.tenant_id, limits_of(made.row)) == ("ward 3", "a", LIMITS)
    assert (made.row.expires_ms or 0) - made.row.created_ms == 86_400_000


async def test_rotation_never_lengthens_a_life(database: Database) -> None:
    async with database.begin() as session:
        old = (await add_key(session, SECRETS, new(expires_in_s=5))).row
        was = old.expires_ms
        await rotate_key(session, SECRETS, old.id, 600)

    assert old.expires_ms == was


async def test_what_is_revoked_or_expired_cannot_be_rotated(database: Database) -> None:
    async with database.begin() as session:
        revoked = (await add_key(session, SECRETS, new())).row
        await revoke_key(session, revoked.id)
        expired = (await add_key(session, SECRETS, new(expires_in_s=0))).row

        assert await rotate_key(session, SECRETS, revoked.id, 600) is None
        assert await rotate_key(session, SECRETS, expired.id, 600) is None
        assert await rotate_key(session, SECRETS, "galen_none", 600) is None


async def test_a_key_is_revoked_once(database: Database) -> None:
    async with database.begin() as session:
        row = (await add_key(session, SECRETS, new())).row
    async with database.begin() as session:
        first = await revoke_key(session, row.id)
    async with database.begin() as session:
        second = await revoke_key(session, row.id)
        assert await revoke_key(session, "galen_none") is None

    assert first is not None
    assert second is not None
    assert second.revoked_ms == first.revoked_ms is not None


async def test_lists_are_newest_first_in_pages_and_of_one_tenant(database: Database) -> None:
    async with database.begin() as session:
        for number in range(3):
            await add_key(session, SECRETS, new(f"a{number}"))
        await add_key(session, SECRETS, new("b", tenant="b"))
    async with database.begin() as session:
        everybody = await list_keys(session, None, Page(10)) or []
        first = await list_keys(session, "a", Page(2)) or []
        rest = await list_keys(session, "a", Page(2, after=first[1].id)) or []
        unknown = await list_keys(session, "a", Page(2, after="galen_none"))

    assert len(everybody) == 4
    assert {row.name for row in [*first[:2], *rest]} == {"a0", "a1", "a2"}
    assert len(first) == 3
    assert len(rest) == 1
    assert unknown is None


async def test_changes_are_told_and_what_is_over_is_left_out_of_the_first_look(
    database: Database,
) -> None:
    async with database.begin() as session:
        assert not await has_keys(session)
        live = (await add_key(session, SECRETS, new())).row
        revoked = (await add_key(session, SECRETS, new())).row
        await add_key(session, SECRETS, new(expires_in_s=0))
        await revoke_key(session, revoked.id)
    async with database.begin() as session:
        now, first = await changed_keys(session, 0)
        _, since = await changed_keys(session, now - 60_000)
        _, later = await changed_keys(session, now + 60_000)

        assert await has_keys(session)
    assert [row.id for row in first] == [live.id]
    assert len(since) == 3
    assert later == []


async def test_use_is_noted_without_being_a_change(database: Database) -> None:
    async with database.begin() as session:
        row = (await add_key(session, SECRETS, new())).row
    async with database.begin() as session:
        await note_use(session, [row.id])
    async with database.begin() as session:
        used = await find_key(session, row.id)

    assert used is not None
    assert used.last_used_ms is not None
    assert used.changed_ms == row.changed_ms


def test_a_pepper_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = StoreSettings(dir=tmp_path / "new" / "folder")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_secrets(settings).pepper_id, range(16)))

    [file] = settings.dir.iterdir()
    assert len(set(found)) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes()) == 32


def test_a_pepper_that_is_set_wins_and_writes_nothing(tmp_path: Path) -> None:
    settings = StoreSettings(dir=tmp_path, key_pepper=SecretStr("x" * 32))

    assert load_secrets(settings).pepper_id == KeySecrets(b"x" * 32).pepper_id
    assert list(tmp_path.iterdir()) == []


def test_a_pepper_that_is_cut_short_is_told(tmp_path: Path) -> None:
    (tmp_path / "key_pepper").write_bytes(b"short")

    with pytest.raises(OSError, match="cut short"):
        load_secrets(StoreSettings(dir=tmp_path))


def test_other_peppers_hash_otherwise() -> None:
    assert SECRETS.hash_of(b"galen_1") != KeySecrets(b"q" * 32).hash_of(b"galen_1")


def test_a_job_token_grants_what_it_was_made_for_and_cannot_be_changed() -> None:
    grant = JobGrant("tenant ä", "galen_1", "batch_1")
    token = SECRETS.job_token(grant)
    claims, _, mac = token.partition(".")
    other = SECRETS.job_token(JobGrant("b", "galen_1", "batch_1")).partition(".")[0]

    assert SECRETS.grant_of(token) == grant
    for forged in (f"{other}.{mac}", f"{claims}.", claims, f"{claims}.{mac[:-1]}0ä", "", "."):
        assert SECRETS.grant_of(forged) is None
    assert KeySecrets(b"q" * 32).grant_of(token) is None


async def test_many_keys_are_made_at_once(database: Database) -> None:
    async def make() -> str:
        async with database.begin() as session:
            return (await add_key(session, SECRETS, new())).row.id

    assert len(set(await asyncio.gather(*(make() for _ in range(8))))) == 8
