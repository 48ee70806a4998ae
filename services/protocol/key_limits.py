"""What a key may use, held in Redis for all gateways together.

Requests and tokens per minute are token buckets: a minute's worth at once, refilled evenly, by
Redis's clock. A request takes what it is expected to need when it comes, and gives back or takes
more when it is over, so that a bucket may be overdrawn once; then it fills up from below zero.
Concurrent requests have a lifetime, after which a gateway that died with them counts no more.

What does *not* live here: what is expected of a request (`gateway/access`), which key has which
limits (`services.store`).
"""

from dataclasses import dataclass

from services.protocol import keys
from services.protocol.connection import Script, as_text
from services.protocol.wire import RedisWire

_ENTER = Script("limit_enter")
_SETTLE = Script("limit_settle")
_RELEASE = Script("limit_release")
_MONTH_MS = 40 * 86_400_000
_UNKNOWN = -1
_ASKS_BACK = "SPENT?"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_month: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that wants in.

    Args:
        month: in which it came, as 2026-11.
        tokens: what it is expected to need.
        lifetime_ms: it is over by then, whatever becomes of its gateway.
    """

    key_id: str
    request_id: str
    month: str
    tokens: int
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a key has left.

    Args:
        short: the limit (a field of `KeyLimits`) that has no room; "": the request is in.
        wait_s: until there is room; 0: nobody knows.
        reset_requests_s: until all requests of a minute are there again.
    """

    short: str
    wait_s: float
    requests: int
    reset_requests_s: float
    tokens: int
    reset_tokens_s: float


class SpentUnknownError(Exception):
    """Redis does not know what was spent this month: say so in `spent`."""


class LimitBook:
    """The limits of all keys. Every call raises what Redis raises."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire

    async def enter(self, visit: Visit, limits: KeyLimits, *, spent: int | None = None) -> Room:
        """Let a request in, if there is room for it.

        Args:
            spent: tokens of this month, for a Redis that has lost them.

        Raises:
            SpentUnknownError: there is a limit of the month, and `spent` is needed.
        """
        reply = await _ENTER.run(
            self._wire,
            _keys_of(visit),
            visit.request_id,
            visit.tokens,
            limits.requests_per_minute or 0,
            limits.tokens_per_minute or 0,
            limits.concurrent_requests or 0,
            limits.tokens_per_month or 0,
            visit.lifetime_ms,
            _MONTH_MS,
            _UNKNOWN if spent is None else spent,
        )
        short = as_text(reply[0])
        if short == _ASKS_BACK:
            raise SpentUnknownError
        wait_ms, requests, reset_requests_ms, tokens, reset_tokens_ms = map(int, reply[1:])
        return Room(
            "" if short == "OK" else short,
            wait_ms / 1000,
            requests,
            reset_requests_ms / 1000,
            tokens,
            reset_tokens_ms / 1000,
        )

    async def settle(self, visit: Visit, limits: KeyLimits, took: int) -> None:
        """A request that was let in is over, and took so many tokens."""
        per_minute = limits.tokens_per_minute or 0
        await _SETTLE.run(
            self._wire, _keys_of(visit), visit.request_id, visit.tokens, took, per_minute
        )

    async def release(self, visit: Visit, limits: KeyLimits) -> bool:
        """Undo what `enter` did where its reply was lost; safe to repeat.

        Returns:
            Whether it had let the request in. Only requests of a key that limits how many run at
            once are known by name: those of another key get nothing back.
        """
        was_in = await _RELEASE.run(
            self._wire,
            _keys_of(visit),
            visit.request_id,
            visit.tokens,
            limits.requests_per_minute or 0,
            limits.tokens_per_minute or 0,
        )
        return bool(was_in)


def _keys_of(visit: Visit) -> tuple[str, str, str]:
    return (
        keys.limit_buckets(visit.key_id),
        keys.limit_running(visit.key_id),
        keys.limit_spent(visit.key_id, visit.month),
    )
