"""The spine of a worker: claim what fits, load its images, run it, send what comes.

1. Claim as many requests as there are free slots; with none waiting, sleep on the doorbell.
2. Decode the entry, load its images (in tasks of their own), give it to the engine.
3. The engine calls back once per step; events go to the outbox, an end frees its slot.
4. Cancellations and orders come over a list of their own; a cordoned worker claims nothing new.
5. A worker that lost its lease (`fence`) forgets all it holds and begins again under a new id.
6. Draining: claim nothing more, finish what runs, hand back the rest.

Runs inside the engine process; what watches that process stands in `main.py`.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from services.protocol import keys
from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode
from services.protocol.messages import (
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    ImagePart,
    ModelCard,
    ProtocolError,
    Tokens,
    WorkerRecord,
    WorkerState,
    decode_request,
)
from services.protocol.recent import Recent
from services.protocol.request_queue import Cancellation, Claim, ClaimedEntry, WorkerOrder
from services.tracing.spans import NO_SPAN, Span, Tracing, logged
from services.worker.adapters import AdapterFolder
from services.worker.attempt_span import FIRST_TOKEN, begin_generation, end_generation
from services.worker.claiming import Claiming, Room
from services.worker.control import Readiness, hear_forever
from services.worker.engines.base import Engine, EngineJob
from services.worker.heartbeat import Heartbeat
from services.worker.images import images_or_failure
from services.worker.links import WorkerLinks
from services.worker.metrics import WorkerMetrics
from services.worker.outbox import Outbox
from services.worker.progress_page import ProgressPage, StepLimits
from services.worker.reserved_slots import ReservedSlots
from services.worker.settings import WorkerSettings
from services.worker.waiting import until_set, within

_log = structlog.get_logger()

_LOOK_AGAIN_S = 0.5
"""A SIGTERM may shorten a drain that has begun."""


@dataclass(slots=True)
class _Running:
    """A request that this worker holds."""

    gateway_id: str
    attempt: int
    stream: bool
    is_batch: bool
    alone: bool = False
    loading: asyncio.Task[None] | None = None
    is_submitted: bool = False
    queue_s: float | None = None  # that it waited for this worker, where that is known
    span: Span = NO_SPAN
    is_first_token_due: bool = False  # in its trace


class WorkerLoopError(Exception):
    """One of the worker's own loops broke: a bug of ours; its traceback is in the log."""


class Worker:
    """Runs one engine for one model; `run` returns when it was drained."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        links: WorkerLinks,
        page: ProgressPage,
        metrics: WorkerMetrics,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._engine = engine
        self._links = links
        self._page = page
        self._metrics = metrics
        self._outbox = Outbox(links.writer, self.fence, self._abort_gateway)
        limits = StepLimits(settings.step_timeout_s, settings.prefill_timeout_s)
        self._heartbeat = Heartbeat(links.directory, page, limits, self._describe, self.fence)
        self._adapters = AdapterFolder(settings, engine, self._heartbeat.renew_soon)
        self._running: dict[str, _Running] = {}
        self._reserved = ReservedSlots(settings.slots, settings.interactive_slots)
        self._is_empty = asyncio.Event()
        self._is_fenced = asyncio.Event()
        self._readiness = Readiness()
        self._claiming = Claiming(links.queue, self._readiness, self)
        self._num_submitted = 0
        self._ended = Recent[tuple[str, int]](2 * settings.slots)
        self._cancelled_early = Recent[tuple[str, int]](2 * settings.slots)
        self._card: ModelCard | None = None
        self._host = socket.gethostname()
        self._worker_id = self._new_id()

    def is_ready(self) -> bool:
        """Whether it has loaded and claims requests; to be called from any thread."""
        return self._heartbeat.is_ready

    async def run(self) -> None:
        """Load, serve until `drain` is called, then finish or hand back what is left."""
        stopping = asyncio.create_task(until_set(self._readiness.is_draining))
        starting = asyncio.create_task(self._engine.start(self._on_step, self._page))
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            _log.info("worker.stopped.while_loading")
            os._exit(0)  # nothing is held, and a thread that loads weights cannot be stopped
        self._card = starting.result()
        await self._adapters.start()
        if await self._register():
            _log.info("worker.ready", worker_id=self._worker_id, model=self._card.id)
        tasks = [
            asyncio.create_task(self._guarded(loop))
            for loop in (
                self._heartbeat.run(),
                self._outbox.run(),
                self._claiming.run(),
                hear_forever(
                    self._links.control,
                    lambda: self._worker_id,
                    self._on_cancellation,
                    self._on_order,
                ),
                self._reincarnate_when_fenced(),
                self._adapters.run(),
            )
        ]
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task is not stopping]
        if not failed:
            await self._finish_running(tasks[2])
        for task in [*tasks, stopping]:
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        await self._engine.close()
        if failed:
            raise WorkerLoopError  # ends the process; its parent starts a new one

    def drain(self) -> None:
        """Claim nothing more; `run` returns when the rest is finished or handed back."""
        self._readiness.drain(self._settings.drain_timeout_s)

    def cordon(self) -> None:
        """Begin as a worker that claims nothing until it is told to."""
        self._on_order(WorkerOrder("cordon"))

    # --- 1. claim (`claiming.py`) ---

    @property
    def worker_id(self) -> str:
        """Of the present incarnation."""
        return self._worker_id

    def room(self) -> Room:
        """Return how much may be claimed now; none while a suspect runs."""
        if any(held.alone for held in self._running.values()):
            return Room(0, 0)
        num_batch = sum(held.is_batch for held in self._running.values())
        num_interactive = len(self._running) - num_batch
        batch_slots = self._reserved.batch_slots(num_interactive, time.monotonic())
        free = self._settings.slots - len(self._running)
        return Room(free, max(0, min(free, batch_slots - num_batch)))

    def is_known(self, entry: ClaimedEntry) -> bool:
        """Whether this worker runs the entry, or has ended it."""
        is_over = (entry.request_id, entry.attempt) in self._ended
        return is_over or entry.request_id in self._running

    # --- 2. accept ---

    def accept(self, claim: Claim) -> None:
        """Run what was claimed."""
        for entry in claim.entries:
            if (entry.request_id, entry.attempt) in self._cancelled_early:
                continue
            try:
                request = decode_request(entry.payload)
            except ProtocolError:
                self._bury(entry)
                continue
            if request.request_id in self._running:  # an attempt whose cancellation is late
                self._abort(request.request_id)
            held = _Running(
                request.gateway_id,
                request.attempt,
                stream=request.stream,
                is_batch=request.lane == "batch",
                alone=claim.alone,
                queue_s=entry.waited_s,
                span=begin_generation(self._tracing, entry, request, self._worker_id),
            )
            held.is_first_token_due = held.span is not NO_SPAN
            if entry.waited_s is not None:
                self._metrics.queue_time.labels(request.lane).observe(entry.waited_s)
            self._running[request.request_id] = held
            has_image = any(isinstance(p, ImagePart) for m in request.messages for p in m.parts)
            if has_image or not self._adapters.has(request.adapter):
                held.loading = asyncio.create_task(self._load_and_submit(held, request))
            else:
                self._submit(held, EngineJob(request, ()))
        self._metrics.running.set(len(self._running))

    def _submit(self, held: _Running, job: EngineJob) -> None:
        """Give a request to the engine, from which moment on the engine has to make progress."""
        held.is_submitted = True
        self._num_submitted += 1
        self._page.set_running(self._num_submitted)
        self._engine.submit(job)

    async def _load_and_submit(self, held: _Running, request: GenerationRequest) -> None:
        loaded = await self._adapters.refusal(request)
        loaded = loaded or await images_or_failure(self._links.images, request)
        if isinstance(loaded, Failed):
            self._on_step([loaded])
        else:
            self._submit(held, EngineJob(request, loaded))

    def _bury(self, entry: ClaimedEntry) -> None:
        message = "the worker cannot read this request: it speaks another protocol version"
        code = ErrorCode.PROTOCOL_MISMATCH
        failed = Failed(entry.request_id, entry.attempt, code, message)
        self._outbox.bury(entry.gateway_id, failed, code.value)

    # --- 3. steps ---

    def _on_step(self, events: Sequence[EngineEvent]) -> None:
        ended = False
        num_tokens = 0
        for event in events:
            held = self._running.get(event.request_id)
            if held is None or held.attempt != event.attempt:
                continue  # aborted between two steps
            if isinstance(event, Tokens):
                self._outbox.add(held.gateway_id, event, stream=held.stream)
                num_tokens += len(event.token_ids)
                if held.is_first_token_due:
                    held.span.event(FIRST_TOKEN)
                    held.is_first_token_due = False
            else:
                self._end(held, event)
                ended = True
        self._metrics.steps.inc()
        self._metrics.tokens.inc(num_tokens)
        if ended:
            self._slots_changed()

    def _end(self, held: _Running, event: Finished | Failed) -> None:
        if isinstance(event, Finished):
            self._metrics.prefill.observe(event.prefill_s)
            if held.queue_s is not None:
                event = msgspec.structs.replace(event, queue_s=held.queue_s)
        self._outbox.add(held.gateway_id, event, stream=held.stream)
        end_generation(held.span, event)
        self._let_go(event.request_id)

    def _let_go(self, request_id: str) -> _Running:
        held = self._running.pop(request_id)
        self._ended.add((request_id, held.attempt))
        self._num_submitted -= held.is_submitted
        return held

    def _slots_changed(self) -> None:
        self._page.set_running(self._num_submitted)
        self._metrics.running.set(len(self._running))
        self._claiming.room_changed()
        if not self._running:
            self._is_empty.set()

    # --- 4. cancellations ---

    def _on_cancellation(self, cancelled: Cancellation) -> None:
        held = self._running.get(cancelled.request_id)
        if held is not None and held.attempt == cancelled.attempt:
            self._abort(cancelled.request_id)
            _log.info("request.cancelled", request_id=cancelled.request_id, **logged(held.span))
        else:  # it may overtake the claim that brings the request
            self._cancelled_early.add((cancelled.request_id, cancelled.attempt))

    def _on_order(self, order: WorkerOrder) -> None:
        self._heartbeat.state = self._readiness.obey(order)
        self._heartbeat.renew_soon()
        self._claiming.room_changed()

    def _abort(self, request_id: str) -> None:
        held = self._let_go(request_id)
        if held.loading is not None:
            held.loading.cancel()
        self._engine.abort(request_id)
        self._outbox.acknowledge(held.gateway_id, request_id, held.attempt)
        held.span.end("aborted")
        self._metrics.aborted.inc()
        self._slots_changed()

    def _abort_gateway(self, gateway_id: str) -> None:
        gone = [r for r, held in self._running.items() if held.gateway_id == gateway_id]
        for request_id in gone:
            self._abort(request_id)
        if gone:
            _log.warning("gateway.gone", gateway_id=gateway_id, aborted=len(gone))

    # --- 5. fencing ---

    def fence(self) -> None:
        """The lease is over: forget all that is held, and begin again under a new id."""
        if self._is_fenced.is_set():
            return
        _log.warning("worker.fenced", worker_id=self._worker_id, running=len(self._running))
        self._metrics.fenced.inc()
        self._is_fenced.set()
        self._worker_id = self._new_id()
        self._outbox.begin(self._worker_id)
        for request_id in list(self._running):
            self._abort(request_id)
        self._outbox.begin(self._worker_id)  # forget the acknowledgements, too: not ours to give

    async def _reincarnate_when_fenced(self) -> None:
        while True:
            await self._is_fenced.wait()
            await self._register()
            self._is_fenced.clear()

    async def _register(self) -> bool:
        """Register under the present id; returns whether to begin: not if told to end meanwhile."""
        self._outbox.begin(self._worker_id)
        return await self._heartbeat.begin_patiently(self._readiness.is_draining)

    def _new_id(self) -> str:
        return f"{self._settings.name}-{secrets.token_hex(6)}"

    def _describe(self, state: WorkerState) -> WorkerRecord:
        assert self._card is not None  # noqa: S101 - our own order of calls
        return WorkerRecord(
            worker_id=self._worker_id,
            model=self._adapters.on_card(self._card),
            state=state,
            slots=self._settings.slots,
            running=len(self._running),
            steps=self._page.steps,
            host=self._host,
        )

    # --- 6. draining ---

    async def _finish_running(self, claiming: asyncio.Task[None]) -> None:
        """Let running requests end; hand on those that do not within the time allowed."""
        self._heartbeat.state = "draining"
        await self._claiming.stop(claiming)
        _log.info("worker.draining", running=len(self._running))
        try:
            await self._claiming.leave_to_others()
            await self._heartbeat.renew()
        except REDIS_AWAY:
            _log.warning("worker.draining.unannounced")
        self._is_empty.clear()
        while self._running and (left_s := self._readiness.drain_left_s()) > 0:
            await within(self._is_empty.wait(), min(left_s, _LOOK_AGAIN_S))
        for held in self._running.values():
            held.span.end("handed_back")
        await within(self._outbox.flushed(), keys.COMMAND_TIMEOUT_S)
        try:
            await self._links.directory.report_death(self._worker_id, "handed_back")
        except REDIS_AWAY:
            _log.warning("worker.left.unannounced", running=len(self._running))
        _log.info("worker.drained", handed_back=len(self._running))

    async def _guarded(self, loop: Coroutine[Any, Any, None]) -> None:
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("worker.loop.broken")
            raise
