"""Each switch takes exactly one protection out of the product; for negative controls only.

A fault test that still passes with its protection switched off proves nothing. The entry scripts
beside this module (`gateway`, `worker`, `engine`) throw the switches that their arguments name and
then start the normal program.
"""

# pyright: basic, reportAttributeAccessIssue=false
import asyncio
import hashlib
import itertools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.gateway import main as gateway_main
from services.gateway import serving
from services.gateway.dispatch import Dispatcher
from services.protocol import event_stream, keys
from services.protocol.connection import REDIS_AWAY, Script
from services.protocol.event_stream import EventWriter
from services.protocol.messages import (
    EventBatch,
    GenerationRequest,
    Tokens,
    decode_events,
    encode,
)
from services.protocol.recent import Recent
from services.protocol.request_queue import Claim, QueueFull, RequestQueue, WorkerQueue
from services.protocol.worker_directory import WorkerDirectory
from services.worker.claiming import Claiming
from services.worker.loop import Worker
from services.worker.main import Supervisor


def no_reaping() -> None:
    """Nobody takes the requests of a worker whose lease is over."""

    async def reap_expired(_self: WorkerDirectory) -> int:
        return 0

    WorkerDirectory.reap_expired = reap_expired


def no_death_report() -> None:
    """A worker's parent tells nobody that its engine died."""

    async def report_death(
        _self: WorkerDirectory, _worker_id: str, _reason: str, _suspects: Sequence[str] = ()
    ) -> None:
        return

    WorkerDirectory.report_death = report_death  # pyright: ignore[reportAttributeAccessIssue]


def no_resume() -> None:
    """The next attempt begins at token 0, and nobody counts what was shown already."""
    enqueue = RequestQueue.enqueue

    async def forgetful(
        self: RequestQueue, request: GenerationRequest, **options: Any
    ) -> QueueFull | None:
        request = msgspec.structs.replace(request, resume_token_ids=())
        return await enqueue(self, request, **options)

    RequestQueue.enqueue = forgetful
    no_token_count()


def no_token_count() -> None:
    """The gateway shows whatever tokens come, in whatever order."""

    def route_tokens(_self: Dispatcher, ticket: Any, event: Tokens) -> None:
        ticket.next_index = event.index + len(event.token_ids)
        ticket.token_ids += event.token_ids
        ticket.reply.put((ticket.choice, event))

    Dispatcher._route_tokens = route_tokens


def no_attempt_check() -> None:
    """The gateway shows the events of every attempt."""
    route_batch = Dispatcher._route_batch

    def route_all(self: Dispatcher, payload: bytes) -> None:
        batch = decode_events(payload)
        for event in batch.events:
            ticket = self._tickets.get(event.request_id)
            if ticket is not None and isinstance(event, Tokens):
                event = msgspec.structs.replace(event, attempt=ticket.request.attempt)  # noqa: PLW2901
            one = EventBatch(batch.version, batch.worker_id, [event])
            route_batch(self, encode(one))

    Dispatcher._route_batch = route_all


def no_fence() -> None:
    """A worker without a lease may write."""
    script = Script("publish")
    refusal = "if not redis.call('ZSCORE', leases, ARGV[1]) then"
    assert refusal in script.text
    script = _script(script.text.replace(refusal, "if false then"))
    event_stream._PUBLISH = script


def no_write_again() -> None:
    """What a worker could not write at once, it forgets."""
    publish = EventWriter.publish

    async def once(self: EventWriter, *arguments: Any) -> Any:
        try:
            return await publish(self, *arguments)
        except REDIS_AWAY:
            return "OK"

    EventWriter.publish = once


def no_data_loss_check() -> None:
    """The gateway does not see that Redis came back empty."""
    Dispatcher.data_lost = lambda _self: None


def no_watching_clients() -> None:
    """The gateway does not see that a client has left."""

    async def watch(_receive: object, _reply: object) -> None:
        return

    serving._watch_client = watch


def no_revoking() -> None:
    """What a client has given up runs on."""

    async def revoke(_self: RequestQueue, _gateway_id: str, _request_id: str) -> str:
        return "NONE"

    RequestQueue.revoke = revoke  # pyright: ignore[reportAttributeAccessIssue]


def no_claim_recovery() -> None:
    """A worker does not ask what it holds after a claim whose reply it missed."""

    async def accept_nothing(_self: Claiming) -> None:
        return

    Claiming._accept_forgotten = accept_nothing


def slow_claims() -> None:
    """Replies to claims come late, as from a slow network (a fault, not a protection)."""
    claim = WorkerQueue.claim

    async def late(self: WorkerQueue, worker_id: str, free: int, batch: int) -> Claim:
        found = await claim(self, worker_id, free, batch)
        await asyncio.sleep(0.3)
        return found

    WorkerQueue.claim = late


def lost_claims() -> None:
    """The reply to every third claim that gave something is lost (a fault, not a protection)."""
    claim = WorkerQueue.claim
    numbers = itertools.count(1)

    async def lose(self: WorkerQueue, worker_id: str, free: int, batch: int) -> Claim:
        found = await claim(self, worker_id, free, batch)
        if found.entries and next(numbers) % 3 == 0:
            raise ConnectionError
        return found

    WorkerQueue.claim = lose


def no_early_cancellation() -> None:
    """A worker forgets the cancellation of a request that it does not know yet."""
    Recent.__contains__ = lambda _self, _key: False


def no_delivery_limit() -> None:
    """A request may kill any number of workers."""
    keys.DELIVERY_LIMIT = 1_000


def no_hang_detection() -> None:
    """A worker's parent does not look whether its engine moves."""
    Supervisor._hang = lambda *_: None


def no_drain() -> None:
    """A worker's engine ends at once when it is told to stop."""
    Worker.drain = lambda _self: os._exit(0)


def no_gateway_drain() -> None:
    """The gateway ends at once when it is told to stop."""
    gateway_main.GatewayServer.handle_exit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def _script(text: str) -> Script:
    script = Script("publish")
    script.text = text
    script.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return script


SWITCHES: dict[str, Callable[[], None]] = {
    switch.__name__: switch
    for switch in (
        no_reaping, no_death_report, no_resume, no_token_count, no_attempt_check, no_fence,
        no_write_again,
        no_data_loss_check, no_watching_clients, no_revoking, no_delivery_limit,
        no_claim_recovery, slow_claims, lost_claims, no_early_cancellation,
        no_hang_detection, no_drain, no_gateway_drain,
    )
}  # fmt: skip


def throw(names: Sequence[str]) -> None:
    """Throw the switches of these names."""
    for name in names:
        SWITCHES[name]()
