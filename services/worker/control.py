"""What is said to one worker from outside: cancellations, and an operator's orders.

They come over one list per incarnation. What does *not* live here: what is done about them
(`loop.py`).
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import assert_never

import structlog

from services.protocol.connection import REDIS_AWAY, Backoff
from services.protocol.messages import WorkerState
from services.protocol.request_queue import Cancellation, WorkerOrder, WorkerQueue

_log = structlog.get_logger()


class Readiness:
    """Whether this worker may claim, and until when it may finish."""

    def __init__(self) -> None:
        self.is_draining = asyncio.Event()
        self.may_claim = asyncio.Event()
        self.may_claim.set()
        self._drain_until = math.inf

    def drain(self, timeout_s: float) -> None:
        """Claim nothing more and end; a second call can only shorten the time."""
        self._drain_until = min(self._drain_until, time.monotonic() + timeout_s)
        self.is_draining.set()

    def drain_left_s(self) -> float:
        """Return the seconds that running requests still have."""
        return self._drain_until - time.monotonic()

    def obey(self, order: WorkerOrder) -> WorkerState:
        """Do what an operator says; returns the state from now on."""
        match order.name:
            case "cordon":
                self.may_claim.clear()
            case "uncordon":
                self.may_claim.set()
            case "drain":
                self.drain(order.timeout_s)
            case _:
                assert_never(order.name)
        if self.is_draining.is_set():
            return "draining"
        return "ready" if self.may_claim.is_set() else "cordoned"


async def hear_forever(
    queue: WorkerQueue,
    worker_id: Callable[[], str],
    on_cancellation: Callable[[Cancellation], None],
    on_order: Callable[[WorkerOrder], None],
) -> None:
    """Pass on what comes; cancelled at the worker's end.

    Args:
        worker_id: returns the present incarnation's.
    """
    backoff = Backoff()
    while True:
        try:
            heard = await queue.next_control(worker_id())
            backoff.reset()
        except REDIS_AWAY:
            await backoff.wait()
            continue
        match heard:
            case None:
                pass
            case Cancellation():
                on_cancellation(heard)
            case WorkerOrder():
                _log.info("worker.order.received", order=heard.name)
                on_order(heard)
            case _:
                assert_never(heard)
