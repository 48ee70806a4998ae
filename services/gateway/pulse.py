"""The gateway's clock: leases, the catalogue, and what is due at a time.

Every second it renews this gateway's lease, reads the worker directory and takes the requests of
workers whose lease is over; and it looks through the open replies for deadlines, silences and
clients that have stopped reading.
"""

import asyncio
import time

import structlog

from services.gateway.catalogue import ModelCatalogue
from services.gateway.dispatch import Dispatcher
from services.gateway.metrics import GatewayMetrics
from services.gateway.replies import Ping
from services.gateway.settings import GatewaySettings
from services.protocol import keys
from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode
from services.protocol.worker_directory import WorkerDirectory

_log = structlog.get_logger()

_REAP_AFTER_S = keys.LEASE_MS / 1000 + keys.HEARTBEAT_S
"""Redis must have been up for so long before leases are judged: after an outage all look over."""
_FRESH_S = 3.0
_LAG_PERIOD_S = 0.05


class Pulse:
    """The periodic tasks of a gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        dispatcher: Dispatcher,
        directory: WorkerDirectory,
        catalogue: ModelCatalogue,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._directory = directory
        self._catalogue = catalogue
        self._metrics = metrics
        self._epoch = ""
        self._last_beat = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether Redis answered a heartbeat a moment ago."""
        return time.monotonic() - self._last_beat < _FRESH_S

    async def beat_forever(self) -> None:
        """Renew, read, reap; cancelled at the gateway's end."""
        while True:
            try:
                await self.beat()
            except REDIS_AWAY as error:
                _log.warning("gateway.beat.delayed", cause=type(error).__name__)
            await asyncio.sleep(keys.HEARTBEAT_S)

    async def beat(self) -> None:
        """One heartbeat. Raises what Redis raises."""
        pulse = await self._directory.gateway_beat(self._dispatcher.gateway_id)
        had_beaten = self._last_beat > 0.0
        self._last_beat = time.monotonic()
        if had_beaten and (not pulse.lease_lived or pulse.epoch != self._epoch):
            self._dispatcher.data_lost()
        self._epoch = pulse.epoch
        await self.read_directory()
        waiting = await self._directory.waiting()
        claimed = await self._directory.claimed()
        self._metrics.shared.set_queue(await self._directory.figures())
        self._dispatcher.load.measure(waiting, claimed, time.monotonic())
        await self._dispatcher.settle()
        for field, count in waiting.items():
            model, _, lane = field.partition("|")
            self._metrics.waiting.labels(model, lane).set(count)
        up_s = time.monotonic() - self._dispatcher.redis_up_since
        if self._dispatcher.is_redis_up and up_s > _REAP_AFTER_S:
            reaped = await self._directory.reap_expired()
            if reaped:
                _log.warning("workers.reaped", workers=reaped)

    async def read_directory(self) -> None:
        """Learn at once what workers and models there are. Raises what Redis raises."""
        self._catalogue.update(
            await self._directory.workers(),
            await self._directory.models_seen(),
            await self._directory.unloaded(),
        )
        catalogue = self._catalogue
        self._metrics.shared.set_workers(catalogue.base_models(), catalogue.workers)

    async def watch_replies(self) -> None:
        """Find what is due; cancelled at the gateway's end."""
        while True:
            now = time.monotonic()
            for reply in self._dispatcher.replies():
                if reply.abandoned:
                    continue
                if reply.sending_since and (
                    now - reply.sending_since > self._settings.stalled_client_s
                ):  # before the deadline: whoever does not read gets no error event either
                    self._metrics.stalled_clients.inc()
                    reply.abandon()
                elif now > reply.deadline:
                    message = f"the request took longer than {self._settings.request_timeout_s:g} s"
                    self._dispatcher.fail(reply, ErrorCode.TIMEOUT, message)
                elif reply.stream and now - reply.heard > self._settings.ping_after_s:
                    reply.heard = now
                    reply.put((0, Ping()))
            self._metrics.open_choices.set(self._dispatcher.num_open)
            self._metrics.shared.set_redis(is_up=self._dispatcher.is_redis_up and self.is_fresh)
            await asyncio.sleep(1.0)

    async def measure_lag(self) -> None:
        """Record how late the event loop runs a timer; cancelled at the gateway's end."""
        while True:
            due = time.monotonic() + _LAG_PERIOD_S
            await asyncio.sleep(_LAG_PERIOD_S)
            self._metrics.loop_lag.observe(max(0.0, time.monotonic() - due))
