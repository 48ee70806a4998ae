"""How many requests an endpoint gets at once, and how often: fewer when it is full.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), with waits that servers ask for.
Many endpoints allow a rate, whatever is under way. What came through between two refusals is that
rate; requests then begin a little below it, and ever faster until the next refusal, as in CUBIC
(Ha, Rhee and Xu, 2008). What does *not* live here: requests (`client.py`).
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_MEASURED_S = 2.0  # a shorter time says little of a rate
_BEGIN_AT, _FASTER_PER_S2 = 0.97, 0.004  # of the rate: 1.0 after 3 s, 2 after 16 s
_CATCH_UP_S = 0.25  # timers are late; what they missed of the rate is made up for
_LESS, _LESS_AT_RATE = 0.5, 0.9  # of what runs at once, by a refusal


class Pace:
    """Shared by all requests to one endpoint.

    Args:
        most: requests at once, at most.
        start: to begin with; None: `most`.
    """

    def __init__(self, most: int, start: int | None = None) -> None:
        self._most = most
        self._limit = float(start or most)
        self._in_flight = 0
        self._closed_until_s = 0.0
        self._halved_s = float("-inf")
        self._changed = asyncio.Condition()
        self._rate_per_s: float | None = None
        self._measured_from_s = time.monotonic()
        self._num_answers = 0
        self._next_s = 0.0
        self.num_in_a_row = 0
        """Times that it was full since the last answer."""

    @property
    def limit(self) -> int:
        """How many requests may run now."""
        return max(1, int(self._limit))

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[float]:
        """Wait for room; it is taken while the context lasts. Gives the time that it began."""
        await self._take()
        try:
            yield time.monotonic()
        finally:
            self._in_flight -= 1
            async with self._changed:
                self._changed.notify()

    async def succeeded(self) -> None:
        """Note an answer: one more at once after each round of them."""
        self._num_answers += 1
        self.num_in_a_row = 0
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        async with self._changed:
            self._changed.notify()

    def refused(self, began_s: float, retry_after_s: float) -> None:
        """Note a 429, or a 503: fewer from now, and none for so long.

        Args:
            began_s: of its turn. What was sent before the last such note says nothing new.
        """
        now_s = time.monotonic()
        if began_s >= self._halved_s:
            self._halved_s = now_s
            self.num_in_a_row += 1
            self._measure(now_s)
            less = _LESS if self._rate_per_s is None else _LESS_AT_RATE
            self._limit = max(1.0, self._limit * less)
        # A little later, or clocks that differ make it come too early.
        until_s = now_s + retry_after_s * random.uniform(1.0, 1.1)  # noqa: S311 - no secret
        self._closed_until_s = max(self._closed_until_s, until_s)

    def _measure(self, now_s: float) -> None:
        """Take what came through since the last refusal for what is allowed."""
        seconds = now_s - self._measured_from_s
        if seconds >= _MEASURED_S and self._num_answers:
            self._rate_per_s = self._num_answers / seconds
            self._measured_from_s, self._num_answers = now_s, 0

    async def _take(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._in_flight < self.limit)
                now_s = time.monotonic()
                wait_s = max(self._closed_until_s, self._next_s) - now_s
                if wait_s <= 0:
                    self._in_flight += 1
                    if self._rate_per_s is not None:
                        at_s = max(self._next_s, now_s - _CATCH_UP_S)
                        self._next_s = at_s + self._apart_s(now_s)
                    return
            await asyncio.sleep(wait_s)

    def _apart_s(self, now_s: float) -> float:
        """Return the time between two requests at the rate of now."""
        assert self._rate_per_s is not None  # noqa: S101 (asked before)
        faster = _BEGIN_AT + _FASTER_PER_S2 * (now_s - self._halved_s) ** 2
        return 1 / (self._rate_per_s * faster)
