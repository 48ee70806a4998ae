"""Keeps room in the queue for requests whose images are being decoded: no more of them than fit."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.gateway.catalogue import ModelCatalogue
from services.gateway.queue_errors import told_to_clients
from services.gateway.queue_load import QueueLoad
from services.protocol.request_queue import Candidate, LanePlace, RequestQueue


class QueueRoom:
    """The room that one gateway keeps; `enqueue` decides in the end."""

    def __init__(
        self, queue: RequestQueue, catalogue: ModelCatalogue, load: QueueLoad, max_waiting: int
    ) -> None:
        self._queue = queue
        self._catalogue = catalogue
        self._load = load
        self._max_waiting = max_waiting
        self._coming = Counter[tuple[str, str]]()

    @asynccontextmanager
    async def kept(self, place: LanePlace) -> AsyncGenerator[None]:
        """Keep room for a request while it is made.

        Raises what queueing it would raise now: OverloadedError or UnavailableError.
        """
        lane = (place.model, place.lane)
        before = self._coming[lane]
        self._coming[lane] += 1
        try:
            ready = self._catalogue.ready_workers(place.model)
            with told_to_clients():
                full = await self._queue.check_room(
                    place,
                    self._max_waiting,
                    before=before,
                    workers=[Candidate(worker.worker_id, worker.slots) for worker in ready],
                )
            if full is not None:
                raise self._load.overloaded(*lane, full.waiting)
            yield
        finally:
            self._coming[lane] -= 1
