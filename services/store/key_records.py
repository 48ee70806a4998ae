"""Queries of API keys.

What does *not* live here: how keys are made and hashed (`key_secrets.py`), who may do what.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from modeling.medical_images.choice import BurnedIn
from services.protocol.key_limits import NO_LIMITS, KeyLimits
from services.store.clock import now_ms
from services.store.file_records import Page
from services.store.key_secrets import KeySecrets, new_key
from services.store.models import KeyRow

MOST_KEYS = 100_000
"""That are neither revoked nor expired: gateways hold them in memory (0.5 KB each)."""


class TooManyKeysError(Exception):
    """There are `MOST_KEYS`."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is made of; `expires_in_s` None: it does not expire."""

    name: str
    tenant_id: str
    scopes: tuple[str, ...]
    limits: KeyLimits = NO_LIMITS
    burned_in: BurnedIn | None = None
    expires_in_s: int | None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key's record, and the key itself, which nobody can show again."""

    row: KeyRow
    key: str


def limits_of(row: KeyRow) -> KeyLimits:
    """Return a key's limits."""
    return KeyLimits(
        row.requests_per_minute,
        row.tokens_per_minute,
        row.concurrent_requests,
        row.tokens_per_month,
    )


async def add_key(session: AsyncSession, secrets: KeySecrets, new: NewKey) -> MadeKey:
    """Make a key; raises TooManyKeysError."""
    now = await session.scalar(select(now_ms())) or 0
    num_live = await session.scalar(
        select(func.count())
        .select_from(KeyRow)
        .where(
            KeyRow.revoked_ms.is_(None), or_(KeyRow.expires_ms.is_(None), KeyRow.expires_ms > now)
        )
    )
    if (num_live or 0) >= MOST_KEYS:
        raise TooManyKeysError
    key_id, key = new_key()
    row = KeyRow(
        id=key_id,
        tenant_id=new.tenant_id,
        name=new.name,
        hash=secrets.hash_of(key.encode()).hex(),
        pepper_id=secrets.pepper_id,
        scopes=" ".join(new.scopes),
        requests_per_minute=new.limits.requests_per_minute,
        tokens_per_minute=new.limits.tokens_per_minute,
        concurrent_requests=new.limits.concurrent_requests,
        tokens_per_month=new.limits.tokens_per_month,
        burned_in=new.burned_in,
        created_ms=now,
        changed_ms=now,
        expires_ms=None if new.expires_in_s is None else now + new.expires_in_s * 1000,
    )
    session.add(row)
    await session.flush()
    return MadeKey(row, key)


async def find_key(session: AsyncSession, key_id: str) -> KeyRow | None:
    """Return a key's record; None: there is none of this id."""
    return await session.scalar(select(KeyRow).where(KeyRow.id == key_id))


async def list_keys(
    session: AsyncSession, tenant_id: str | None, page: Page
) -> list[KeyRow] | None:
    """Return a page of keys, the newest first, and one more if there are more.

    None: `after` is none of them.
    """
    query = select(KeyRow)
    if tenant_id is not None:
        query = query.where(KeyRow.tenant_id == tenant_id)
    if page.after:
        last = await find_key(session, page.after)
        if last is None:
            return None
        query = query.where(tuple_(KeyRow.created_ms, KeyRow.id) < (last.created_ms, last.id))
    query = query.order_by(KeyRow.created_ms.desc(), KeyRow.id.desc()).limit(page.limit + 1)
    return list(await session.scalars(query))


async def revoke_key(session: AsyncSession, key_id: str) -> KeyRow | None:
    """Let a key be of no use any more; revoked twice, it keeps the first time."""
    now = await session.scalar(select(now_ms())) or 0
    row = await find_key(session, key_id)
    if row is not None and row.revoked_ms is None:
        row.revoked_ms = row.changed_ms = now
    return row


async def rotate_key(
    session: AsyncSession, secrets: KeySecrets, key_id: str, overlap_s: int
) -> MadeKey | None:
    """Make a key like another one, which stays good for `overlap_s`; None: no such live key.

    The new one never expires where the old one did not, and after as long a life where it did.
    """
    now = await session.scalar(select(now_ms())) or 0
    old = await find_key(session, key_id)
    if old is None or old.revoked_ms is not None or (old.expires_ms or now + 1) <= now:
        return None
    life_ms = None if old.expires_ms is None else old.expires_ms - old.created_ms
    new = NewKey(
        name=old.name,
        tenant_id=old.tenant_id,
        scopes=tuple(old.scopes.split()),
        limits=limits_of(old),
        burned_in=burned_in_of(old),
        expires_in_s=None if life_ms is None else life_ms // 1000,
    )
    made = await add_key(session, secrets, new)
    until = now + overlap_s * 1000
    old.expires_ms = until if old.expires_ms is None else min(old.expires_ms, until)
    old.changed_ms = now
    old.replaced_by = made.row.id
    return made


def burned_in_of(row: KeyRow) -> BurnedIn | None:
    """Return a key's policy for burned-in text, typed."""
    match row.burned_in:
        case "block" | "mask" | "allow" as policy:
            return policy
        case _:
            return None


async def changed_keys(session: AsyncSession, since_ms: int) -> tuple[int, list[KeyRow]]:
    """Return the database's time now, and the keys that changed since (0: all that ever were)."""
    now = await session.scalar(select(now_ms())) or 0
    query = select(KeyRow).where(KeyRow.changed_ms >= since_ms)
    if since_ms == 0:  # what was over by then can never be used again
        query = query.where(
            KeyRow.revoked_ms.is_(None), or_(KeyRow.expires_ms.is_(None), KeyRow.expires_ms > now)
        )
    return now, list(await session.scalars(query))


async def has_keys(session: AsyncSession) -> bool:
    """Whether a key was ever made."""
    return bool(await session.scalar(select(exists().select_from(KeyRow))))


async def note_use(session: AsyncSession, key_ids: Collection[str]) -> None:
    """Write down that keys were used just now."""
    await session.execute(
        update(KeyRow)
        .where(KeyRow.id.in_(key_ids))
        .values(last_used_ms=now_ms())
        .execution_options(synchronize_session=False)
    )
