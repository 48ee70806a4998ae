"""Workers with the fake engine in this process, and a gateway played by hand; Redis is real."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from services.protocol import keys
from services.protocol.connection import open_wire
from services.protocol.event_stream import EventReader, EventWriter
from services.protocol.image_store import ImageStore
from services.protocol.messages import (
    Finished,
    GenerationEvent,
    GenerationRequest,
    Lane,
    Message,
    SamplingParams,
    TextPart,
    decode_events,
)
from services.protocol.request_queue import RequestQueue, WorkerQueue
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory
from services.tracing.spans import NoTracing
from services.worker.engines.fake_engine import FakeEngine
from services.worker.images import ImageLoader
from services.worker.links import WorkerLinks
from services.worker.loop import Worker
from services.worker.metrics import WorkerMetrics
from services.worker.progress_page import ProgressPage
from services.worker.settings import WorkerSettings
from tests.support.waiting import eventually

MODEL, GATEWAY = "m", "g"
LIMIT_S = 10.0
ENDLESS = "[[n=6000 t=0 d=20]]"


@dataclass
class PlayedGateway:
    """Sends requests and keeps what is said of each."""

    wire: RedisWire
    blocking: RedisWire
    heard: dict[str, list[GenerationEvent]] = field(
        default_factory=dict[str, list[GenerationEvent]]
    )

    @property
    def queue(self) -> RequestQueue:
        return RequestQueue(self.wire)

    @property
    def directory(self) -> WorkerDirectory:
        return WorkerDirectory(self.wire)

    async def send(self, request_id: str, *, prompt: str = ENDLESS, lane: Lane = "batch") -> None:
        await self.queue.enqueue(request(request_id, prompt=prompt, lane=lane))

    async def num_running(self, worker: Worker) -> int:
        return int(await self.wire.execute_command("HLEN", keys.running(worker.worker_id)))

    async def ended(self, *request_ids: str) -> bool:
        return all(any(isinstance(e, Finished) for e in self.heard.get(r, ())) for r in request_ids)

    async def listen(self) -> None:
        reader = EventReader(self.blocking, GATEWAY)
        while True:
            for payload in await reader.read():
                for event in decode_events(payload).events:
                    self.heard.setdefault(event.request_id, []).append(event)


def request(
    request_id: str, *, prompt: str = ENDLESS, lane: Lane = "interactive"
) -> GenerationRequest:
    """A request for the fake engine."""
    message = Message("user", (TextPart(prompt),))
    return GenerationRequest(
        request_id, GATEWAY, "t", MODEL, lane, (message,), SamplingParams(temperature=0.0)
    )


@contextlib.asynccontextmanager
async def played_gateway(url: str) -> AsyncIterator[PlayedGateway]:
    wire, blocking = open_wire(url), open_wire(url, blocking=True)
    gateway = PlayedGateway(wire, blocking)
    await gateway.directory.gateway_beat(GATEWAY)
    listening = asyncio.create_task(gateway.listen())
    try:
        yield gateway
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await wire.aclose()
        await blocking.aclose()


@contextlib.asynccontextmanager
async def running_worker(url: str, **settings: object) -> AsyncIterator[Worker]:
    """A worker in this process; drained at the end without patience."""
    chosen = {"model_id": MODEL, "drain_timeout_s": 0.0, **settings}
    wires = [open_wire(url, blocking=blocks) for blocks in (False, True, True, False)]
    wire, control, bell, pictures = wires
    links = WorkerLinks(
        WorkerQueue(wire, bell, MODEL),
        WorkerQueue(wire, control, MODEL),
        EventWriter(wire),
        WorkerDirectory(wire),
        ImageLoader(ImageStore(pictures)),
    )
    engine = FakeEngine(MODEL, step_ms=5.0)
    worker = Worker(
        WorkerSettings(**chosen),  # type: ignore[arg-type]  # any field
        engine,
        links,
        ProgressPage.create(),
        WorkerMetrics(),
        NoTracing(),
    )
    running = asyncio.create_task(worker.run())
    try:
        await eventually(lambda: _is_registered(worker, wire), LIMIT_S, "the worker's lease")
        yield worker
    finally:
        worker.drain()
        await running
        for each in wires:
            await each.aclose()


async def _is_registered(worker: Worker, wire: RedisWire) -> bool:
    return await wire.execute_command("ZSCORE", keys.LEASES, worker.worker_id) is not None
