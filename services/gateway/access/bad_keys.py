"""How many bad keys an address may try: in this gateway's memory, a minute at a time.

It never stands in the way of a good key, which is looked at first. No more than `_MOST_ADDRESSES`
are remembered, the oldest are forgotten first.
"""

import time

MOST_PER_MINUTE = 100
_MINUTE_S = 60.0
_MOST_ADDRESSES = 10_000


class BadKeys:
    """Counts them by address."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int]] = {}

    def wait_s(self, address: str) -> float:
        """Return for how long an address may try no other; 0: it may."""
        began, count = self._counts.get(address, (0.0, 0))
        left_s = began + _MINUTE_S - time.monotonic()
        return left_s if count >= MOST_PER_MINUTE and left_s > 0 else 0.0

    def count(self, address: str) -> None:
        """An address has tried a bad key."""
        now = time.monotonic()
        began, count = self._counts.get(address, (now, 0))
        if now - began >= _MINUTE_S:
            began, count = now, 0
            del self._counts[address]
        if address not in self._counts and len(self._counts) >= _MOST_ADDRESSES:
            del self._counts[next(iter(self._counts))]
        self._counts[address] = (began, count + 1)
