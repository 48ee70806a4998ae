"""How many requests an endpoint gets at once: more while it answers, half as many when it is full.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), with waits that servers ask for.
What does *not* live here: requests (`client.py`).
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


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
        self.num_in_a_row = 0
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        async with self._changed:
            self._changed.notify()

    def refused(self, began_s: float, retry_after_s: float) -> None:
        """Note a 429, or a 503: half as many from now, and none for so long.

        Args:
            began_s: of its turn. What was sent before the last halving says nothing new.
        """
        now_s = time.monotonic()
        if began_s >= self._halved_s:
            self._halved_s = now_s
            self.num_in_a_row += 1
            self._limit = max(1.0, self._limit / 2)
        # A little later each, or all come back at once.
        until_s = now_s + retry_after_s * random.uniform(1.0, 1.1)  # noqa: S311 - no secret
        self._closed_until_s = max(self._closed_until_s, until_s)

    async def _take(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._in_flight < self.limit)
                wait_s = self._closed_until_s - time.monotonic()
                if wait_s <= 0:
                    self._in_flight += 1
                    return
            await asyncio.sleep(wait_s)
