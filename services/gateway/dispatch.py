"""Sends requests to the queue and events to the replies that wait for them.

One reader task serves all requests of this process. The gateway knows which tokens a client has
seen, so it is the gateway that sends a request on when its worker is lost: as the next attempt,
with those tokens, or not at all where an exact continuation is impossible.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, assert_never

import msgspec
import structlog

from services.gateway.affinity import candidates_for
from services.gateway.catalogue import ModelCatalogue
from services.gateway.metrics import GatewayMetrics
from services.gateway.queue_errors import UNLOADED, redis_away, told_to_clients
from services.gateway.queue_load import QueueLoad
from services.gateway.queue_room import QueueRoom
from services.gateway.replies import Reply, Ticket
from services.gateway.settings import GatewaySettings
from services.gateway.token_charges import TokenCharges
from services.protocol import keys
from services.protocol.connection import REDIS_AWAY, Backoff
from services.protocol.errors import ErrorCode
from services.protocol.event_stream import EventReader
from services.protocol.messages import (
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Lost,
    ProtocolError,
    Tokens,
    decode_events,
)
from services.protocol.recent import Recent
from services.protocol.request_queue import Candidate, RequestQueue, UnloadedError
from services.tracing.spans import logged

_log = structlog.get_logger()

MAX_ATTEMPTS = 16
"""Of one request, counting those that cost it no strike; a bound against a loop nobody foresaw."""
_STRAYS_KNOWN = 4096
_MAX_UNREAD_ITEMS = 50_000
"""Events waiting for a client that reads too slowly; it is cut beyond that."""


class Dispatcher:
    """All requests that this gateway has under way."""

    def __init__(
        self,
        settings: GatewaySettings,
        queue: RequestQueue,
        reader: EventReader,
        catalogue: ModelCatalogue,
        metrics: GatewayMetrics,
        gateway_id: str,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._reader = reader
        self._catalogue = catalogue
        self._metrics = metrics
        self.gateway_id = gateway_id
        self.is_redis_up = False
        self.redis_up_since = time.monotonic()
        self.load = QueueLoad()
        self._charges = TokenCharges(settings.tenant_weights)
        self.room = QueueRoom(queue, catalogue, self.load, settings.max_waiting)
        self._tickets: dict[str, Ticket] = {}
        self._open: dict[Reply, None] = {}
        self._strays = Recent[str](_STRAYS_KNOWN)
        self._background: set[asyncio.Task[None]] = set()

    # --- requests ---

    async def submit(self, reply: Reply, requests: Sequence[GenerationRequest]) -> None:
        """Queue one request per choice; events come to `reply`.

        Raises:
            OverloadedError: the lane is full; nothing was queued.
            UnavailableError: Redis is away; what may have been queued is taken back.
        """
        if not self.is_redis_up:
            raise redis_away()
        self._open[reply] = None
        reply.expect(len(requests))
        for choice, request in enumerate(requests):
            ticket = Ticket(choice, request, reply)
            reply.tickets.append(ticket)
            self._tickets[request.request_id] = ticket
        try:
            for ticket in list(reply.tickets):
                await self._enqueue_first(ticket)
        except BaseException:
            self.cancel(reply)
            self.release(reply)
            raise

    async def _enqueue_first(self, ticket: Ticket) -> None:
        request = ticket.request
        if self._tickets.get(request.request_id) is not ticket or request.attempt > 1:
            return  # given up, or sent again, while its sisters were being queued
        ticket.charged = self._charges.estimate(request, self._catalogue.card(request.model))
        with told_to_clients():
            full = await self._queue.enqueue(
                request,
                max_waiting=self._settings.max_waiting,
                cost_tokens=ticket.charged,
                candidates=self._candidates(request),
                traceparent=ticket.begin_attempt(),
            )
        if full is not None:
            raise self.load.overloaded(request.model, request.lane, full.waiting)
        self._metrics.first_attempts.inc()
        if self._tickets.get(request.request_id) is not ticket:
            self._spawn(self._revoke(request.request_id))

    async def settle(self) -> None:
        """Correct what tenants were charged. Raises what Redis raises."""
        for (model, lane), corrections in self._charges.take_corrections().items():
            await self._queue.settle(model, lane, corrections)

    def _candidates(self, request: GenerationRequest) -> Sequence[Candidate]:
        if not self._settings.image_affinity:
            return ()
        return candidates_for(request, self._catalogue.ready_workers(request.model))

    def cancel(self, reply: Reply) -> None:
        """Give up what is left of a reply: out of the queue, out of the engine."""
        for ticket in reply.tickets:
            ticket.span.end("cancelled")
            if self._tickets.pop(ticket.request.request_id, None) is not None:
                self._metrics.cancelled.inc()
                self._spawn(self._revoke(ticket.request.request_id))
        reply.completion_tokens += sum(ticket.next_index for ticket in reply.tickets)
        reply.tickets.clear()  # they point back: without them nothing waits for the collector

    async def _revoke(self, request_id: str) -> None:
        """Take a request back; tries until Redis has answered."""
        backoff = Backoff()
        while True:
            try:
                await self._queue.revoke(self.gateway_id, request_id)
            except REDIS_AWAY:
                await backoff.wait()
            else:
                return

    @property
    def num_open(self) -> int:
        """Choices under way."""
        return len(self._tickets)

    def replies(self) -> list[Reply]:
        """Return every reply whose response is not over."""
        return list(self._open)

    def release(self, reply: Reply) -> None:
        """The response is over: nothing of this reply is watched any more."""
        self._open.pop(reply, None)

    # --- events ---

    async def read_forever(self) -> None:
        """Read the reply stream and hand events on; cancelled at the gateway's end."""
        backoff = Backoff(first_s=0.05)
        while True:
            try:
                payloads = await self._reader.read()
            except REDIS_AWAY as error:
                self._redis_lost(type(error).__name__)
                await backoff.wait()
                continue
            if not self.is_redis_up:
                self.is_redis_up = True
                self.redis_up_since = time.monotonic()
                _log.info("redis.connected")
            backoff.reset()
            for payload in payloads:
                self._route_batch(payload)

    def data_lost(self) -> None:
        """Redis came back empty, or our lease ran out: send everything again, from where it is."""
        _log.warning("redis.state.lost", open=len(self._tickets))
        self._reader.restart()
        for ticket in list(self._tickets.values()):
            self._take_back(ticket)

    def fail(self, reply: Reply, code: ErrorCode, message: str) -> None:
        """End a reply with an error of our own, and give up what is left of it."""
        if not reply.tickets:
            return
        request = reply.tickets[0].request
        reply.put((0, Failed(request.request_id, request.attempt, code, message)))
        self.cancel(reply)

    def _redis_lost(self, cause: str) -> None:
        if self.is_redis_up:
            _log.error("redis.lost", cause=cause, open=len(self._tickets))
        self.is_redis_up = False

    def _route_batch(self, payload: bytes) -> None:
        try:
            batch = decode_events(payload)
        except ProtocolError as error:
            self._metrics.undecodable.inc()
            _log.error("events.undecodable", cause=str(error), size=len(payload))
            return
        for event in batch.events:
            ticket = self._tickets.get(event.request_id)
            if ticket is None or event.attempt != ticket.request.attempt:
                self._metrics.stale_events.inc()
                if ticket is None and isinstance(event, Tokens):
                    self._stop_stray(event.request_id)
                continue
            self._route(ticket, event)

    def _stop_stray(self, request_id: str) -> None:
        """A worker runs what nobody waits for (a write that came late): stop it, once."""
        if self._strays.add(request_id):
            self._spawn(self._revoke(request_id))

    def _route(self, ticket: Ticket, event: GenerationEvent) -> None:
        match event:
            case Tokens():
                self._route_tokens(ticket, event)
            case Finished():
                if event.completion_tokens != ticket.next_index:
                    self._repair(ticket)
                    return
                self._charges.ended(ticket.request, ticket.charged, event)
                self._metrics.note_wait(ticket.request, event)
                del self._tickets[event.request_id]
                ticket.span.end()
                ticket.reply.count_prompt(ticket.choice, event)
                ticket.reply.put((ticket.choice, event))
            case Failed():
                del self._tickets[event.request_id]
                ticket.span.end(event.code)
                ticket.reply.put((ticket.choice, event))
            case Lost():
                self._send_on(ticket, event)
            case _:
                assert_never(event)

    def _route_tokens(self, ticket: Ticket, event: Tokens) -> None:
        skip = ticket.next_index - event.index
        if skip < 0:
            self._repair(ticket)
            return
        if skip:  # a write that was repeated after its reply was lost
            if skip >= len(event.token_ids):
                return
            event = msgspec.structs.replace(
                event,
                index=ticket.next_index,
                token_ids=event.token_ids[skip:],
                texts=event.texts[skip:],
                logprobs=event.logprobs[skip:] if event.logprobs is not None else None,
            )
        ticket.next_index += len(event.token_ids)
        if ticket.reply.stream:
            ticket.token_ids += event.token_ids
        reply = ticket.reply
        reply.put((ticket.choice, event))
        if reply.waiting_items > _MAX_UNREAD_ITEMS and not reply.abandoned:
            self._metrics.stalled_clients.inc()
            reply.abandon()

    # --- the next attempt ---

    def _send_on(self, ticket: Ticket, lost: Lost) -> None:
        request = ticket.request
        self._metrics.lost.labels(lost.reason).inc()
        ticket.span.end(lost.reason)
        _log.warning(
            "request.lost",
            request_id=request.request_id,
            attempt=request.attempt,
            reason=lost.reason,
            shown_tokens=ticket.next_index,
            suspect=lost.suspect,
            **logged(ticket.span),
        )
        if lost.final or request.attempt >= MAX_ATTEMPTS:
            self._give_up(ticket, lost)
        elif self._catalogue.is_unloaded(request.model):
            self._fail_ticket(ticket, ErrorCode.MODEL_UNLOADED, UNLOADED)
        elif not self._may_resume(ticket):
            self._fail_ticket(ticket, ErrorCode.WORKER_LOST, _CANNOT_RESUME)
        else:
            self._spawn(self._resend(ticket, strike=lost.strike, alone=lost.suspect))

    def _give_up(self, ticket: Ticket, lost: Lost) -> None:
        if lost.suspect:
            self._fail_ticket(ticket, ErrorCode.REQUEST_POISONED, _POISONED)
        else:
            self._fail_ticket(ticket, ErrorCode.WORKER_LOST, _LOST_TOO_OFTEN)

    def _fail_ticket(self, ticket: Ticket, code: ErrorCode, message: str) -> None:
        request = ticket.request
        self._tickets.pop(request.request_id, None)
        ticket.span.end(code)
        failed = Failed(request.request_id, request.attempt, code, message)
        ticket.reply.put((ticket.choice, failed))

    def _may_resume(self, ticket: Ticket) -> bool:
        """Whether another worker can go on exactly where the client's text ends."""
        if not ticket.token_ids:
            return True
        sampling = ticket.request.sampling
        needs = {"greedy" if sampling.temperature == 0 else "sampling"}
        if sampling.logprobs is not None:
            needs.add("logprobs")
        if sampling.json_schema is not None:
            needs.add("guided")
        return needs <= self._catalogue.resumes(ticket.request.model)

    async def _resend(self, ticket: Ticket, *, strike: bool, alone: bool) -> None:
        request = msgspec.structs.replace(
            ticket.request,
            attempt=ticket.request.attempt + 1,
            strikes=ticket.request.strikes + int(strike),
            alone=alone,
            resume_token_ids=tuple(ticket.token_ids),
        )
        ticket.request = request
        if not ticket.reply.stream:
            ticket.next_index = 0
        backoff = Backoff()
        context = ticket.begin_attempt()
        while self._tickets.get(request.request_id) is ticket and ticket.request is request:
            try:
                await self._queue.enqueue(request, traceparent=context)
                self._metrics.later_attempts.inc()
            except REDIS_AWAY:
                await backoff.wait()
                continue
            except UnloadedError:
                self._fail_ticket(ticket, ErrorCode.MODEL_UNLOADED, UNLOADED)
                return
            if self._tickets.get(request.request_id) is not ticket:
                await self._revoke(request.request_id)  # cancelled while we were sending
            return

    def _repair(self, ticket: Ticket) -> None:
        """Events are missing: let another attempt produce them again."""
        self._metrics.gaps.inc()
        _log.error("events.gap", request_id=ticket.request.request_id, at=ticket.next_index)
        self._take_back(ticket)

    def _take_back(self, ticket: Ticket) -> None:
        """End the present attempt, of which no event counts from now on, and begin the next."""
        request = ticket.request
        ticket.span.end("taken_back")
        ticket.request = msgspec.structs.replace(request, attempt=request.attempt + 1)
        self._spawn(self._take_back_and_resend(ticket))

    async def _take_back_and_resend(self, ticket: Ticket) -> None:
        request = ticket.request
        request_id = request.request_id
        await self._revoke(request_id)
        if self._tickets.get(request_id) is not ticket or ticket.request is not request:
            return  # cancelled meanwhile, or taken back once more
        if ticket.request.attempt > MAX_ATTEMPTS or not self._may_resume(ticket):
            self._fail_ticket(ticket, ErrorCode.BACKEND_UNAVAILABLE, _STATE_LOST)
            return
        await self._resend(ticket, strike=False, alone=False)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def settled(self) -> None:
        """Return when cancellations under way are written, or after a moment."""
        if self._background:
            await asyncio.wait(list(self._background), timeout=keys.COMMAND_TIMEOUT_S)


_CANNOT_RESUME = (
    "the worker was lost in the middle of the answer, and this kind of generation "
    "cannot be continued exactly elsewhere; send the request again"
)
_LOST_TOO_OFTEN = "the workers that held the request were lost; it is not tried again"
_POISONED = "the request made every worker that ran it crash; do not send it again"
_STATE_LOST = "the queue was lost in the middle of the answer; send the request again"
