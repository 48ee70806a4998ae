"""Every key that is good now, in memory: a check asks nobody.

The database is asked every `REFRESH_S` what has changed, so that a key that was revoked elsewhere
is of no use after that time at most, and at once at the gateway that revoked it. What is not known
is looked for once more before it is refused, so that a new key works everywhere at once. Keys are
looked up by their hash, which nobody can foresee without the pepper: a bad key goes the same way
whatever part of it is right, and no time tells which keys there are.

While the database is away, what was known stays good for `MOST_STALE_S`: nobody can revoke a key
then, either.
"""

import asyncio
import hmac
import math
import time
from dataclasses import dataclass

import structlog

from services.gateway.caller import Caller
from services.gateway.job_store import STORE_FAILED, JobStore, unbroken
from services.protocol.key_limits import NO_LIMITS, KeyLimits
from services.store.key_records import (
    burned_in_of,
    changed_keys,
    has_keys,
    limits_of,
    note_use,
)
from services.store.key_secrets import KeySecrets, load_secrets
from services.store.models import KeyRow
from services.store.settings import StoreSettings

_log = structlog.get_logger()

REFRESH_S = 2.0
MOST_STALE_S = 600.0
_LEAST_GAP_S = 0.03
"""Between two looks that bad keys cause: what these wait for, and what a flood of them costs."""
_OVERLAP_MS = 30_000
"""What is asked again: transactions may come to be seen later than they began."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A key that is good until then, monotonic seconds."""

    hash: bytes
    caller: Caller
    until: float


_NOBODY = _Known(bytes(32), Caller(""), -math.inf)


class KeyRing:
    """The keys of one gateway."""

    def __init__(self, store: JobStore, settings: StoreSettings) -> None:
        self._store = store
        self._settings = settings
        self._secrets: KeySecrets | None = None
        self._by_id: dict[str, _Known] = {}
        self._by_hash: dict[bytes, _Known] = {}
        self._used: set[str] = set()
        self._seen_ms = 0
        self._heard = -math.inf
        self._began = -math.inf  # the last look
        self._looking: asyncio.Task[None] | None = None
        self.is_empty = False
        """No key was ever made, as far as is known."""

    @property
    def is_reliable(self) -> bool:
        """Whether the database was heard, lately enough."""
        return time.monotonic() - self._heard < MOST_STALE_S

    async def ready_secrets(self) -> KeySecrets:
        """Return what keys are hashed with; raises OSError."""
        if self._secrets is None:
            self._secrets = await asyncio.to_thread(load_secrets, self._settings)
        return self._secrets

    def find(self, key: bytes) -> Caller | None:
        """Return whose key it is; None: it is none, or not any more."""
        if self._secrets is None:
            return None
        digest = self._secrets.hash_of(key)
        known = self._by_hash.get(digest, _NOBODY)
        is_right = hmac.compare_digest(digest, known.hash)
        if not is_right or time.monotonic() >= known.until or not self.is_reliable:
            return None
        self._used.add(known.caller.key_id or "")
        return known.caller

    def job_caller(self, token: str) -> Caller | None:
        """Return for whom a job worker asks; None: the token is not ours.

        The key that pays may be revoked by now: its jobs go on, on its budget of the month.
        """
        grant = self._secrets.grant_of(token) if self._secrets is not None else None
        if grant is None:
            return None
        payer = self._by_id.get(grant.key_id)
        budget = payer.caller.limits.tokens_per_month if payer else None
        return Caller(
            grant.tenant_id,
            grant.key_id or None,
            frozenset({"chat"}),
            NO_LIMITS if budget is None else KeyLimits(tokens_per_month=budget),
            payer.caller.burned_in if payer else None,
            is_job=True,
        )

    async def look(self) -> None:
        """Return when the database was asked anew, since this was called; all who wait share it."""
        called = time.monotonic()
        while self._began < called:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_soon())
            await asyncio.shield(self._looking)

    async def _look_soon(self) -> None:
        try:
            await asyncio.sleep(self._began + _LEAST_GAP_S - time.monotonic())
            await self.refresh()
        finally:
            self._looking = None

    async def refresh(self) -> None:
        """Ask the database what has changed; where it is away, what was known stays."""
        self._began = time.monotonic()
        try:
            await self._read()
        except (*STORE_FAILED, OSError) as error:
            _log.warning("keys.unread", cause=type(error).__name__)

    async def watch_forever(self) -> None:
        """Hear of changes; cancelled at the gateway's end."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await unbroken(self.refresh())

    async def write_use(self) -> None:
        """Write down which keys were used; raises what is in STORE_FAILED."""
        used, self._used = self._used, set()
        if used:
            async with self._store.begin() as session:
                await note_use(session, used)

    async def _read(self) -> None:
        is_first = self._seen_ms == 0
        secrets = await self.ready_secrets()
        since_ms = max(0, self._seen_ms - _OVERLAP_MS)
        async with self._store.begin() as session:
            now_ms, rows = await changed_keys(session, since_ms)
            if is_first or self.is_empty:
                self.is_empty = not (rows or await has_keys(session))
        foreign = 0
        for row in rows:
            foreign += row.pepper_id != secrets.pepper_id
            self._take(row, now_ms)
        if foreign and is_first:
            _log.error("keys.of_another_pepper", keys=foreign)
        self._seen_ms, self._heard = now_ms, time.monotonic()

    def _take(self, row: KeyRow, now_ms: int) -> None:
        left_s = math.inf if row.expires_ms is None else (row.expires_ms - now_ms) / 1000
        if row.revoked_ms is not None or left_s <= 0:
            if (gone := self._by_id.pop(row.id, None)) is not None:
                del self._by_hash[gone.hash]
            return
        caller = Caller(
            row.tenant_id,
            row.id,
            frozenset(row.scopes.split()),
            limits_of(row),
            burned_in_of(row),
        )
        until = time.monotonic() + left_s
        known = _Known(bytes.fromhex(row.hash), caller, until)
        self._by_id[row.id] = self._by_hash[known.hash] = known
