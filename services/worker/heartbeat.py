"""Keeps this worker's lease alive, as long as its engine makes progress.

A worker that does nothing visible is worth nothing, whatever its process says: with requests in the
engine and no step in time (`StepLimits`) the lease is not renewed, and others take the requests.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from services.protocol import keys
from services.protocol.connection import REDIS_AWAY, Backoff
from services.protocol.messages import WorkerRecord, WorkerState
from services.protocol.request_queue import FencedError
from services.protocol.worker_directory import WorkerDirectory
from services.worker.progress_page import ProgressPage, StepLimits
from services.worker.waiting import within

_log = structlog.get_logger()

SELF_FENCE_S = keys.LEASE_MS / 1000 + 2.0
"""Without Redis for so long a worker must assume that its requests are others' now."""
_FIRST_SILENCE_S, _MOST_SILENCE_S = 2.0, 30.0
"""Between two lines about a Redis that does not answer: at first, and later on at most."""


class Heartbeat:
    """Renews the lease every `keys.HEARTBEAT_S`.

    Args:
        describe: returns the record to publish, given the state.
        on_fenced: called when the lease is found to be over, or must be assumed to be.
    """

    def __init__(
        self,
        directory: WorkerDirectory,
        page: ProgressPage,
        limits: StepLimits,
        describe: Callable[[WorkerState], WorkerRecord],
        on_fenced: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._page = page
        self._limits = limits
        self._describe = describe
        self._on_fenced = on_fenced
        self._renewed = time.monotonic()
        self._has_begun = False
        self._is_due = asyncio.Event()
        self.state: WorkerState = "ready"

    @property
    def is_ready(self) -> bool:
        """Whether this worker is in the directory and takes requests."""
        is_known = self._has_begun and time.monotonic() - self._renewed < SELF_FENCE_S
        return is_known and self.state == "ready"

    async def begin(self) -> None:
        """Register the present incarnation. Raises what Redis raises."""
        record = self._describe(self.state)
        self._page.set_state(self.state, record.worker_id)
        await self._directory.register(record)
        self._renewed = time.monotonic()
        self._has_begun = True

    async def begin_patiently(self, stop: asyncio.Event) -> bool:
        """Register, waiting for Redis where it is away; gives up when `stop` is set.

        Returns whether the worker may begin: False where it is to stop.
        """
        backoff = Backoff()
        began = time.monotonic()
        say_again_s = 0.0
        while not stop.is_set():
            try:
                await self.begin()
            except REDIS_AWAY as error:
                self._page.beat()
                away_s = time.monotonic() - began
                if away_s >= say_again_s:
                    self._say_where_redis_is_awaited(error, away_s)
                    say_again_s = min(2 * away_s, away_s + _MOST_SILENCE_S) + _FIRST_SILENCE_S
                await within(stop.wait(), backoff.next_s())
            else:
                break
        return not stop.is_set()

    def _say_where_redis_is_awaited(self, error: Exception, away_s: float) -> None:
        _log.warning(
            "worker.registration.delayed",
            cause=type(error).__name__,
            away_s=round(away_s),
            redis=self._directory.address,
            hint="start that Redis, or name another (--redis-url, GALEN_WORKER_REDIS_URL)",
        )

    async def run(self) -> None:
        """Beat for ever; cancelled at the worker's end."""
        while True:
            self._page.beat()
            await self.renew()
            self._is_due.clear()
            await within(self._is_due.wait(), keys.HEARTBEAT_S)

    def renew_soon(self) -> None:
        """Publish a new state without waiting for the next beat."""
        self._is_due.set()

    async def renew(self) -> None:
        """Renew once, unless the engine is stalled."""
        record = self._describe(self.state)
        self._page.set_state(self.state, record.worker_id)
        if self._is_stalled():
            _log.error("engine.stalled", running=record.running, steps=record.steps)
            return
        try:
            await self._directory.renew(record)
            self._renewed = time.monotonic()
        except FencedError:
            self._on_fenced()
        except REDIS_AWAY as error:
            away_s = time.monotonic() - self._renewed
            _log.warning("lease.renewal.delayed", cause=type(error).__name__, away_s=round(away_s))
            if away_s > SELF_FENCE_S:
                self._on_fenced()

    def _is_stalled(self) -> bool:
        return self._page.read().is_hung(time.monotonic(), self._limits)
