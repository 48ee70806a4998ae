"""When a worker claims: whenever it has room, and then it sleeps on its bells.

Requests of the batch lanes never fill a worker: some slots are kept for interactive ones
(`WorkerSettings.interactive_slots`). A worker with room for those only does not hear the batch
bell, which rings as long as batch requests wait; the end of a batch request wakes it. What does
*not* live here: what is done with what was claimed (`loop.py`).
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.protocol import keys
from services.protocol.connection import REDIS_AWAY, Backoff
from services.protocol.request_queue import Claim, ClaimedEntry, FencedError, WorkerQueue
from services.worker.control import Readiness
from services.worker.waiting import within

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker may claim: `free` requests, at most `batch` of them of the batch lanes."""

    free: int
    batch: int


class Holder(Protocol):
    """Who holds what is claimed: the worker's loop."""

    @property
    def worker_id(self) -> str:
        """Of the present incarnation."""
        ...

    def room(self) -> Room:
        """Return how much it may claim now; none while a suspect runs."""
        ...

    def accept(self, claim: Claim) -> None:
        """Run what was claimed."""
        ...

    def is_known(self, entry: ClaimedEntry) -> bool:
        """Whether it runs this entry, or has ended it."""
        ...

    def fence(self) -> None:
        """The lease is over."""
        ...


class Claiming:
    """Claims for a holder until it is stopped."""

    def __init__(self, queue: WorkerQueue, readiness: Readiness, holder: Holder) -> None:
        self._queue = queue
        self._readiness = readiness
        self._holder = holder
        self._has_changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._sleeps_without_batch = False
        self._waking: asyncio.Task[None] | None = None

    def room_changed(self) -> None:
        """Look again: a request ended, or an order came."""
        self._has_changed.set()
        if self._sleeps_without_batch and self._holder.room().batch > 0:
            self._sleeps_without_batch = False
            self._waking = asyncio.create_task(self._wake())

    async def run(self) -> None:
        """Claim for ever; ended by `stop`."""
        backoff = Backoff()
        is_unsure = False  # whether the last claim gave something that never arrived
        while True:
            try:
                if not self._readiness.may_claim.is_set():
                    await self.leave_to_others()
                    await self._readiness.may_claim.wait()
                    continue
                room = self._holder.room()
                if room.free <= 0:
                    self._has_changed.clear()
                    await self._has_changed.wait()
                    continue
                if is_unsure:
                    await self._accept_forgotten()
                    is_unsure = False
                    continue
                claim = await self._claim(room)
                if claim.reserved:
                    self._has_changed.clear()
                    await within(self._has_changed.wait(), keys.BLOCK_S)
                elif not claim.entries:
                    await self._sleep()
                backoff.reset()
            except FencedError:
                self._holder.fence()
                await backoff.wait()
            except REDIS_AWAY as error:
                _log.warning("claim.delayed", cause=type(error).__name__)
                is_unsure = True
                await backoff.wait()

    async def leave_to_others(self) -> None:
        """Pass on what waits for this worker, and the wake-up that it may have taken."""
        await self._queue.close_lanes(self._holder.worker_id)
        await self._queue.wake_another()

    async def stop(self, claiming: asyncio.Task[None]) -> None:
        """End the task that runs `run`; what was claimed is accepted."""
        async with self._lock:
            claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)

    async def _claim(self, room: Room) -> Claim:
        """Claim and accept, undisturbed by a drain: what was claimed must not be forgotten."""
        async with self._lock:
            worker_id = self._holder.worker_id
            claim = await self._queue.claim(worker_id, room.free, room.batch)
            if worker_id == self._holder.worker_id:
                self._holder.accept(claim)
            return claim

    async def _accept_forgotten(self) -> None:
        """Accept what Redis says that this worker holds: the reply to a claim may be lost."""
        async with self._lock:
            worker_id = self._holder.worker_id
            claim = await self._queue.held(worker_id)
            if worker_id != self._holder.worker_id:
                return
            new = tuple(e for e in claim.entries if not self._holder.is_known(e))
            if new:
                _log.warning("claim.recovered", requests=len(new))
            self._holder.accept(Claim(new, alone=claim.alone))

    async def _sleep(self) -> None:
        for_batch = self._holder.room().batch > 0
        self._sleeps_without_batch = not for_batch
        try:
            await self._queue.wait_for_work(self._holder.worker_id, for_batch=for_batch)
        finally:
            self._sleeps_without_batch = False

    async def _wake(self) -> None:
        try:
            await self._queue.wake(self._holder.worker_id)
        except REDIS_AWAY:
            return  # nobody sleeps on a bell that is away
