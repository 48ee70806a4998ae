"""A key's limits at the border: asks Redis once, and says the outcome as OpenAI's API does."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from services.gateway.caller import Caller
from services.gateway.job_store import JobStore
from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode, LimitError, UnavailableError
from services.protocol.key_limits import KeyLimits, LimitBook, Room, SpentUnknownError, Visit
from services.store.usage_records import tokens_since

RawHeaders = list[tuple[bytes, bytes]]

_SOON_S = 1.0
"""When to try again where nobody knows when a running request ends."""
_RELEASE_AFTER_S = (0.0, 1.0, 4.0, 15.0)
_IN_WORDS = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrent_requests": "requests at once",
    "tokens_per_month": "tokens per month",
}


class Limiter:
    """Lets requests in."""

    def __init__(self, book: LimitBook, store: JobStore) -> None:
        self._book = book
        self._store = store

    async def enter(self, visit: Visit, limits: KeyLimits) -> Room:
        """Return what the key has left, whether the request is in or not.

        Raises:
            UnavailableError: Redis is away, or the month's use is not known to anybody.
        """
        try:
            try:
                return await self._book.enter(visit, limits)
            except SpentUnknownError:
                async with self._store.begin() as session:
                    spent = await tokens_since(session, visit.key_id, f"{visit.month}-01")
                return await self._book.enter(visit, limits, spent=spent)
        except REDIS_AWAY:
            raise UnavailableError(
                ErrorCode.BACKEND_UNAVAILABLE,
                "the limits of your key cannot be read at the moment; try again later",
                retry_after_s=2.0,
            ) from None

    async def settle(self, visit: Visit, limits: KeyLimits, took: int) -> None:
        """A request is over; while Redis is away, its estimate stays."""
        try:
            await self._book.settle(visit, limits, took)
        except REDIS_AWAY:
            return

    async def release(self, visit: Visit, limits: KeyLimits) -> None:
        """Give back what a request took whose `enter` did not come to its end.

        Its command may still lie before Redis when ours comes, so that is tried again. After the
        last one, what it took ends with its lifetime.
        """
        for wait_s in _RELEASE_AFTER_S:
            await asyncio.sleep(wait_s)
            with suppress(*REDIS_AWAY):
                if await self._book.release(visit, limits):
                    return


def limit_headers(limits: KeyLimits, room: Room) -> RawHeaders:
    """Return OpenAI's `x-ratelimit-*`, of the limits that there are."""
    headers: RawHeaders = []
    of_each = (
        (b"requests", limits.requests_per_minute, room.requests, room.reset_requests_s),
        (b"tokens", limits.tokens_per_minute, room.tokens, room.reset_tokens_s),
    )
    for name, most, left, reset_s in of_each:
        if most is not None:
            headers.append((b"x-ratelimit-limit-" + name, b"%d" % most))
            headers.append((b"x-ratelimit-remaining-" + name, b"%d" % left))
            headers.append((b"x-ratelimit-reset-" + name, _duration(reset_s)))
    return headers


def limit_error(caller: Caller, room: Room) -> LimitError:
    """Return the error of a request that had no room."""
    if room.short == "tokens_per_month":
        wait_s = _until_next_month(datetime.now(UTC)).total_seconds()
    else:
        wait_s = room.wait_s or _SOON_S
    most = getattr(caller.limits, room.short)
    return LimitError(
        ErrorCode.RATE_LIMIT_EXCEEDED,
        f"your key's limit of {most} {_IN_WORDS[room.short]} is reached; send fewer, or later",
        retry_after_s=wait_s,
    )


def _until_next_month(now: datetime) -> timedelta:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1) - now


def _duration(seconds: float) -> bytes:
    """Return seconds as OpenAI writes them: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{minutes:.0f}m{text}s".encode() if minutes else f"{text}s".encode()
