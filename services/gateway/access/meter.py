"""Counts what a request takes: limits when it comes, use when it is over, however it ends.

A route that lets a model work calls `begin`; the front door calls `end` of whatever was begun.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import Scope

from services.gateway.access.expected_tokens import ExpectedTokens
from services.gateway.access.limiter import Limiter, limit_error, limit_headers
from services.gateway.access.usage import UsageLedger, today
from services.gateway.caller import Caller
from services.gateway.replies import Reply
from services.protocol import keys
from services.protocol.key_limits import NO_LIMITS, Visit
from services.store.usage_records import UsagePlace

_LIFETIME_MARGIN_S = 30.0
_CLIENT_LEFT = 499


@dataclass(slots=True)
class Charge:
    """A request that was let in.

    Args:
        visit: None: its key has no limits.
        reply: what comes back for it, once it was sent to the queue.
    """

    caller: Caller
    place: UsagePlace
    prompt_tokens: int
    visit: Visit | None = None
    reply: Reply | None = None


class Meter:
    """The meter of one gateway.

    Args:
        request_timeout_s: longest life of a request.
    """

    def __init__(self, limiter: Limiter, usage: UsageLedger, request_timeout_s: float) -> None:
        self._limiter = limiter
        self._usage = usage
        self._lifetime_ms = round((request_timeout_s + _LIFETIME_MARGIN_S) * 1000)
        self._settling: set[asyncio.Task[None]] = set()

    async def begin(
        self, scope: Scope, caller: Caller, model: str, expected: ExpectedTokens
    ) -> Charge:
        """Let a request in, which will be counted.

        Args:
            model: as the client names it.

        Raises:
            LimitError: a limit of its key is reached.
            UnavailableError: the limits cannot be read.
        """
        place = UsagePlace(today(), caller.key_id or "", caller.tenant_id, model)
        charge = Charge(caller, place, expected.prompt)
        if caller.limits is not NO_LIMITS and caller.limits != NO_LIMITS:
            charge.visit = await self._enter(scope, charge, expected.prompt + expected.answer)
        scope["galen.charge"] = charge
        return charge

    async def _enter(self, scope: Scope, charge: Charge, tokens: int) -> Visit:
        place, limits = charge.place, charge.caller.limits
        request_id: str = scope["galen.request_id"]
        visit = Visit(place.key_id, request_id, place.day[:7], tokens, self._lifetime_ms)
        try:
            room = await self._limiter.enter(visit, limits)
        except BaseException:  # whether it was let in is not known
            if limits.concurrent_requests is not None:
                self._spawn(self._limiter.release(visit, limits))
            raise
        scope["galen.headers"] = limit_headers(limits, room)
        if room.short:
            raise limit_error(charge.caller, room)
        return visit

    def end(self, scope: Scope, status: int) -> None:
        """A request is over: count what it took, if it was let in."""
        charge: Charge | None = scope.get("galen.charge")
        if charge is None:
            return
        is_error = "galen.code" in scope or (
            status >= HTTPStatus.BAD_REQUEST and status != _CLIENT_LEFT
        )
        prompt_tokens = image_tokens = completion_tokens = 0
        if (reply := charge.reply) is not None:
            completion_tokens = reply.completion_tokens
            prompt_tokens, image_tokens = reply.prompt_tokens, reply.image_tokens
            # It was queued and did not come to its end: an error of ours costs what was made, a
            # client that leaves pays for its prompts, or a limit of tokens would not hold it.
            if reply.uncounted and (completion_tokens or not is_error):
                prompt_tokens = max(prompt_tokens, charge.prompt_tokens)
        counts = (1, int(is_error), prompt_tokens, image_tokens, completion_tokens)
        self._usage.add(charge.place, counts)
        if charge.visit is not None:
            took = prompt_tokens + completion_tokens
            self._spawn(self._limiter.settle(charge.visit, charge.caller.limits, took))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def settled(self) -> None:
        """Return when what has ended is written, or after a moment."""
        if self._settling:
            await asyncio.wait(list(self._settling), timeout=keys.COMMAND_TIMEOUT_S)
        await self._usage.flush()
