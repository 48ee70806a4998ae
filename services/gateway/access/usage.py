"""What was used, counted in memory and written every few seconds, and at the gateway's end.

A gateway that is killed loses what it has counted since: `FLUSH_S` at most, while the database can
be reached. Nothing here waits for the database.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from services.gateway.access.key_ring import KeyRing
from services.gateway.job_store import STORE_FAILED, JobStore, unbroken
from services.store.usage_records import UsagePlace, add_usage

_log = structlog.get_logger()

FLUSH_S = 5.0


class UsageLedger:
    """Counters since the last flush."""

    def __init__(self, store: JobStore, ring: KeyRing) -> None:
        self._store = store
        self._ring = ring
        self._counts: dict[UsagePlace, list[int]] = {}

    def add(self, place: UsagePlace, counts: Sequence[int]) -> None:
        """Count something; `counts` come in the order of `usage_records.COUNTERS`."""
        known = self._counts.get(place)
        if known is None:
            self._counts[place] = list(counts)
            return
        for index, count in enumerate(counts):
            known[index] += count

    async def flush(self) -> None:
        """Write what was counted; what cannot be written stays."""
        counts, self._counts = self._counts, {}
        try:
            if counts:
                async with self._store.begin() as session:
                    await add_usage(session, counts)
            counts = {}
            await self._ring.write_use()
        except STORE_FAILED as error:
            _log.warning("usage.unwritten", rows=len(counts), cause=type(error).__name__)
        finally:
            for place, each in counts.items():
                self.add(place, each)

    async def flush_forever(self) -> None:
        """Write every few seconds; cancelled at the gateway's end."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await unbroken(self.flush())


def today() -> str:
    """Return the day, UTC, as 2026-11-29."""
    return datetime.now(UTC).date().isoformat()
