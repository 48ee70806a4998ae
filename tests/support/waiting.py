"""Waiting for a condition instead of sleeping: looks every 20 ms, and gives up with a sentence."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis

_POLL_S = 0.02
_PATIENCE, _SHORT_S = 3.0, 5.0
"""Limits of five seconds and more are for a quiet machine: on a shared one the same takes longer
and is as right. Shorter ones are goals, or wait for what must not come."""


class NeverCameError(AssertionError):
    """The condition did not come true in time."""


async def eventually(
    predicate: Callable[[], Any | Awaitable[Any]], timeout_s: float, what: str = ""
) -> float:
    """Return the seconds until `predicate` (plain or async) was true; raises NeverCameError.

    An OSError or a Redis error of the predicate counts as "not yet": what it asks may be away.
    """
    limit_s = timeout_s * (_PATIENCE if timeout_s >= _SHORT_S else 1.0)
    started = time.monotonic()
    seen: object = None
    while True:
        try:
            seen = predicate()
            if inspect.isawaitable(seen):
                seen = await seen
        except (OSError, redis.RedisError) as error:
            seen = error
        else:
            if seen:
                return time.monotonic() - started
        if time.monotonic() - started > limit_s:
            name = what or getattr(predicate, "__name__", "the condition")
            raise NeverCameError(f"{name} did not come within {limit_s:g} s; last seen: {seen!r}")
        await asyncio.sleep(_POLL_S)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    """`eventually`, for tests without an event loop."""
    asyncio.run(eventually(condition, timeout_s, what))
