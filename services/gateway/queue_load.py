"""How fast the queue is drained, and so when it is worth while to come again.

The rates are those of all workers together, whichever gateway the requests came from: workers count
what they take (`galen:claimed`). Pure; the pulse brings the counts.
"""

import math
import random
from collections.abc import Mapping

from services.protocol.errors import ErrorCode, OverloadedError
from services.protocol.keys import depth_field

_MEMORY_S = 10.0
"""A rate is a mean over about so long; older times fade out exponentially."""
LEAST_WAIT_S, MOST_WAIT_S = 1.0, 60.0
"""Of `Retry-After`. OpenAI's client obeys up to 60 s and makes up its own time beyond."""
_UNMEASURED_WAIT_S = 5.0
_JITTER = 0.25
"""Of the time, up and down: clients that were refused together do not come back together."""


class QueueLoad:
    """Depths and rates as of the last heartbeat; one per gateway."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._claimed: dict[str, int] = {}
        self._measured = 0.0

    def measure(self, waiting: Mapping[str, int], claimed: Mapping[str, int], now: float) -> None:
        """Take the counts at `now` (monotonic seconds), both per `model|lane` (quoted)."""
        passed_s = now - self._measured
        if self._measured and passed_s > 0:
            weight = 1 - math.exp(-passed_s / _MEMORY_S)
            for field, count in claimed.items():
                # a count that has shrunk: Redis lost its data
                newly = max(0, count - self._claimed.get(field, 0))
                rate = self._rates.get(field, newly / passed_s)
                self._rates[field] = rate + weight * (newly / passed_s - rate)
        self._waiting, self._claimed, self._measured = dict(waiting), dict(claimed), now

    def depths(self) -> Mapping[str, int]:
        """Return waiting requests per `model|lane` (quoted)."""
        return self._waiting

    def rate_per_s(self, field: str) -> float | None:
        """Return requests per second that leave a lane; None: not known yet."""
        return self._rates.get(field)

    def wait_s(self, field: str, waiting: int) -> float | None:
        """Return about how long `waiting` requests of a lane wait; None where nothing leaves it."""
        rate = self._rates.get(field, 0.0)
        return waiting / rate if rate > 0 else None

    def retry_after_s(self, field: str, waiting: int) -> float:
        """Return when those that wait now are through, jittered, 1 to 60 s."""
        wait_s = self.wait_s(field, waiting)
        if wait_s is None:
            wait_s = _UNMEASURED_WAIT_S if field not in self._rates else MOST_WAIT_S
        jittered = wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        return min(max(jittered, LEAST_WAIT_S), MOST_WAIT_S)

    def overloaded(self, model: str, lane: str, waiting: int) -> OverloadedError:
        """Return the error of a request that finds no room in its lane."""
        return OverloadedError(
            ErrorCode.OVERLOADED,
            f"{waiting} requests wait for the model {model!r}, the most that may; try again later",
            retry_after_s=self.retry_after_s(depth_field(model, lane), waiting),
        )
