"""Sends events to the gateways: one Redis write per gateway for everything that is ready.

While a write is under way the engine goes on, and what it produces meanwhile makes up the next
write, an event per request; nothing is sent twice or out of order. Answers that are not streamed
are kept here and leave with their last token. A write that fails because Redis is away is repeated
until it is accepted or this worker is fenced; the gateway drops what it has seen already.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from services.protocol.connection import REDIS_AWAY, Backoff
from services.protocol.event_stream import End, EventWriter
from services.protocol.messages import (
    PROTOCOL_VERSION,
    EngineEvent,
    EventBatch,
    GenerationEvent,
    Tokens,
    encode,
)

_log = structlog.get_logger()


@dataclass(slots=True)
class _Parcel:
    """What waits to be written for one gateway."""

    events: list[GenerationEvent] = field(default_factory=list[GenerationEvent])
    ends: list[End] = field(default_factory=list[End])
    open_tokens: dict[str, Tokens] = field(default_factory=dict[str, Tokens])

    def add_tokens(self, event: Tokens) -> None:
        """Append tokens; those of one request that wait together make up one event."""
        before = self.open_tokens.get(event.request_id)
        if before is None:
            self.open_tokens[event.request_id] = event
            self.events.append(event)
            return
        _extend(before, event)


class Outbox:
    """Groups events by gateway and writes them.

    Args:
        on_fenced: called when a write is refused: this worker's lease is over.
        on_gateway_gone: called with a gateway's id when it no longer lives.
    """

    def __init__(
        self,
        writer: EventWriter,
        on_fenced: Callable[[], None],
        on_gateway_gone: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._on_fenced = on_fenced
        self._on_gateway_gone = on_gateway_gone
        self._worker_id = ""
        self._parcels: defaultdict[str, _Parcel] = defaultdict(_Parcel)
        self._kept: dict[str, Tokens] = {}
        self._has_parcels = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def begin(self, worker_id: str) -> None:
        """Write under this worker id from now on; what an earlier incarnation left is dropped."""
        self._worker_id = worker_id
        self._parcels.clear()
        self._kept.clear()

    def add(self, gateway_id: str, event: EngineEvent, *, stream: bool) -> None:
        """Queue one event; tokens of an answer that is not streamed wait for its end."""
        if isinstance(event, Tokens):
            if not stream:
                self._keep(event)
                return
            self._parcels[gateway_id].add_tokens(event)
        else:
            parcel = self._parcels[gateway_id]
            kept = self._kept.pop(event.request_id, None)
            if kept is not None:
                parcel.events.append(kept)
            parcel.events.append(event)
            parcel.ends.append(End(event.request_id, event.attempt))
        self._wake()

    def _keep(self, event: Tokens) -> None:
        kept = self._kept.setdefault(event.request_id, event)
        if kept is not event:
            _extend(kept, event)

    def _wake(self) -> None:
        self._is_idle.clear()
        self._has_parcels.set()

    def acknowledge(self, gateway_id: str, request_id: str, attempt: int) -> None:
        """Let go of a request that ends without an event: nobody waits for it."""
        self._kept.pop(request_id, None)
        self._parcels[gateway_id].ends.append(End(request_id, attempt))
        self._wake()

    def bury(self, gateway_id: str, event: EngineEvent, reason: str) -> None:
        """Queue the failure of an entry that nobody can run; it goes to the dead letters too."""
        parcel = self._parcels[gateway_id]
        parcel.events.append(event)
        parcel.ends.append(End(event.request_id, event.attempt, reason))
        self._wake()

    async def run(self) -> None:
        """Write for ever; cancelled at the worker's end."""
        while True:
            await self._has_parcels.wait()
            self._has_parcels.clear()
            parcels, self._parcels = self._parcels, defaultdict(_Parcel)
            worker_id = self._worker_id
            await asyncio.gather(
                *(self._write(worker_id, gateway, parcel) for gateway, parcel in parcels.items())
            )
            if not self._has_parcels.is_set():
                self._is_idle.set()

    async def flushed(self) -> None:
        """Return when everything queued so far is written."""
        await self._is_idle.wait()

    async def _write(self, worker_id: str, gateway_id: str, parcel: _Parcel) -> None:
        if not parcel.events and not parcel.ends:
            return
        payload = (
            encode(EventBatch(PROTOCOL_VERSION, worker_id, parcel.events)) if parcel.events else b""
        )
        backoff = Backoff()
        while worker_id == self._worker_id:
            try:
                status = await self._writer.publish(worker_id, gateway_id, payload, parcel.ends)
            except REDIS_AWAY as error:
                _log.warning("outbox.write.delayed", cause=type(error).__name__)
                await backoff.wait()
                continue
            if status == "FENCED" and worker_id == self._worker_id:
                self._on_fenced()
            elif status == "GATEWAY_GONE":
                self._on_gateway_gone(gateway_id)
            return


def _extend(before: Tokens, event: Tokens) -> None:
    """Append the tokens of `event` to those of `before`, which nobody else has seen yet."""
    before.token_ids.extend(event.token_ids)
    before.texts.extend(event.texts)
    if before.logprobs is not None and event.logprobs is not None:
        before.logprobs.extend(event.logprobs)
