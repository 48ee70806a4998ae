"""How fast an endpoint is asked: how many requests at once, and how many a second.

An endpoint is full for one of two reasons. Where it limits what runs at once (a gateway's queue),
additive increase, multiplicative decrease finds the limit (Chiu and Jain, 1989). Where it limits
requests per second, halving would cost the half: there the rate is learnt from what was answered
between refusals, and kept to. Little's law (1961) joins the two: what is answered per second,
times the seconds of an answer, are the requests that the endpoint bears at once.
What does *not* live here: requests (`client.py`).
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

# Chosen by simulation; `tests/endpoint_client/test_pace.py` holds what they give to its bounds.
_DOUBLED_S = 20.0
"""The rate has doubled so long after a refusal, by the cube of the time (as CUBIC, RFC 9438): near
what was learnt at first, and soon far above it where that was too little."""
_DOUBLED_AT_FIRST_S = 5.0
"""The same while a refusal still shows that far more was allowed than had been learnt."""
_MOST_LOWERED = 0.9
"""A rate after a refusal, at least, of the one before: a few slow answers do not make it small."""
_CREDIT_S = 0.5
"""What was not sent in a pause may be sent after it: half of what a token bucket of one second
holds, since all of it at once would find the bucket empty again."""
_SHORTEST_S = 0.5
"""Between two refusals that a rate is learnt from: fewer answers than that say too little."""
_HEADROOM = 1.5
"""More at once than Little's law says, so that what a pause left undone can be made up for."""
_FIRST_PAUSE_S, _MOST_DOUBLED = 0.5, 4
"""Where the endpoint does not say how long: OpenAI's client begins with half a second, too, and
doubles it up to 8 s."""


class Pace:
    """Shared by all requests to one endpoint; its time is that of the event loop.

    Args:
        most: requests at once, at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._in_flight = 0
        self._line = asyncio.Lock()  # one at a time waits for room, the others for their turn
        self._changed = asyncio.Event()
        self._closed_until_s = 0.0
        self._halved_s = float("-inf")
        self._num_in_a_row = 0
        self._rate_per_s: float | None = None
        self._doubled_s = _DOUBLED_AT_FIRST_S
        self._next_s = 0.0
        self._learnt_s: float | None = None
        self._num_answers = 0
        self._answers_s = 0.0

    @property
    def limit(self) -> int:
        """How many requests may run now."""
        return max(1, int(self._limit))

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[float]:
        """Wait for room; it is taken while the context lasts. Gives the time that it began."""
        async with self._line:
            await self._take()
        try:
            yield _now_s()
        finally:
            self._in_flight -= 1
            self._changed.set()

    def succeeded(self, began_s: float) -> None:
        """Note an answer: one more at once after each round of them.

        Args:
            began_s: of its turn.
        """
        self._num_in_a_row = 0
        self._num_answers += 1
        self._answers_s += _now_s() - began_s
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        self._changed.set()

    def refused(self, began_s: float, retry_after_s: float | None) -> None:
        """Note a 429, or a 503: fewer from now, and none for so long.

        Args:
            began_s: of its turn. What was sent before the last lowering says nothing new.
            retry_after_s: what the endpoint says; None: nothing.
        """
        now_s = _now_s()
        if began_s >= self._halved_s:
            self._halved_s = now_s
            self._num_in_a_row += 1
            borne = self._learn(now_s)
            self._limit = max(1.0, self._limit / 2, min(self._limit, _HEADROOM * borne))
        if retry_after_s is None:
            doubled = min(self._num_in_a_row - 1, _MOST_DOUBLED)
            pause_s = _FIRST_PAUSE_S * 2**doubled * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        else:  # a little later each, or all come back at once
            pause_s = retry_after_s * random.uniform(1.0, 1.1)  # noqa: S311 - no secret
        self._closed_until_s = max(self._closed_until_s, now_s + pause_s)

    def _learn(self, now_s: float) -> float:
        """Set the rate from the answers since the last time; returns what is borne at once.

        Without any answer the endpoint may be away: that says nothing of its rate.
        """
        if self._learnt_s is not None:
            seconds = now_s - self._learnt_s
            if not self._num_answers or seconds < _SHORTEST_S:
                return 0.0
            seen_per_s = self._num_answers / seconds
            before_per_s = self._rate_per_s or 0.0
            self._rate_per_s = max(seen_per_s, _MOST_LOWERED * before_per_s)
            is_settled = _MOST_LOWERED * self._rate_per_s <= before_per_s
            self._doubled_s = _DOUBLED_S if is_settled else _DOUBLED_AT_FIRST_S
        borne = (self._rate_per_s or 0.0) * self._answers_s / max(1, self._num_answers)
        self._learnt_s, self._num_answers, self._answers_s = now_s, 0, 0.0
        return borne

    async def _take(self) -> None:
        while True:
            while self._in_flight >= self.limit:
                self._changed.clear()
                await self._changed.wait()
            now_s = _now_s()
            wait_s = max(self._closed_until_s, self._next_s) - now_s
            if wait_s <= 0:
                break
            await asyncio.sleep(wait_s)
        self._in_flight += 1
        if self._rate_per_s is not None and self._learnt_s is not None:
            per_s = self._rate_per_s * (1 + ((now_s - self._learnt_s) / self._doubled_s) ** 3)
            self._next_s = max(self._next_s, now_s - _CREDIT_S) + 1 / per_s


def _now_s() -> float:
    return asyncio.get_running_loop().time()
