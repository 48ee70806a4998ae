"""What comes back for one HTTP request: a mailbox between the reader of events and the response.

The reader puts events in, the response takes all that are ready at once, so that a slow socket
costs one write, not one per token. A reply has one ticket per choice.
"""

import asyncio
import time
from dataclasses import dataclass, field

from services.protocol.errors import ErrorCode, GalenError, error_from_code
from services.protocol.messages import Failed, Finished, GenerationRequest, Tokens
from services.tracing.spans import NO_SPAN, Span


class Ping:
    """Nothing happened for a while: say so to the client."""


class ClientGone:
    """The client has left: nobody reads the answer any more."""


ReplyItem = tuple[int, Tokens | Finished | Failed | Ping | ClientGone]
"""Index of the choice, and what happened to it."""


def error_of(failed: Failed) -> GalenError:
    """Return the exception for a failure off the wire; a code of another version is our error."""
    try:
        code = ErrorCode(failed.code)
    except ValueError:
        code = ErrorCode.INTERNAL_ERROR
    return error_from_code(code, failed.message, failed.param)


@dataclass(slots=True)
class Ticket:
    """One choice of a reply that is under way.

    Args:
        request: as last sent; `attempt` says whose events count.
        next_index: number of the next token to come.
        token_ids: tokens that were put into the mailbox, so that another worker can go on.
        charged: tokens that its tenant was charged for it.
        span: of the attempt that is under way.
    """

    choice: int
    request: GenerationRequest
    reply: "Reply"
    next_index: int = 0
    token_ids: list[int] = field(default_factory=list[int])
    charged: int = 0
    span: Span = NO_SPAN

    def begin_attempt(self) -> str:
        """Begin the span of an attempt; returns the context that goes with it."""
        above = self.reply.span
        if above is not NO_SPAN:
            request = self.request
            self.span = above.child(
                "attempt",
                {"galen.request_id": request.request_id, "galen.attempt": request.attempt},
                kind="producer",
            )
        return self.span.traceparent


class Reply:
    """The mailbox of one HTTP request.

    Args:
        num_prompts: each has the same number of choices, one prompt's after another's.

    Attributes:
        deadline: monotonic seconds at which the request is given up.
        prompt_tokens, image_tokens: of the prompts of which a choice has ended.
        completion_tokens: known once the reply is given up or over.
        uncounted: prompts of which no choice has ended; none before the reply was queued.
        span: of its HTTP request.
    """

    __slots__ = (
        "_choices_per_prompt", "_items", "_num_prompts", "_waiter", "abandoned",
        "completion_tokens", "deadline", "heard", "image_tokens", "prompt_tokens", "received",
        "response_task", "sending_since", "span", "stream", "tickets", "uncounted", "watch",
    )  # fmt: skip

    def __init__(self, *, stream: bool, timeout_s: float, num_prompts: int = 1) -> None:
        now = time.monotonic()
        self.stream = stream
        self.received = now
        self.deadline = now + timeout_s
        self.heard = now
        self.sending_since = 0.0
        self.tickets: list[Ticket] = []
        self.abandoned = False
        self.prompt_tokens = self.image_tokens = self.completion_tokens = 0
        self.response_task: asyncio.Task[object] | None = None
        self.watch: asyncio.Task[None] | None = None
        self.uncounted: set[int] = set()
        self.span = NO_SPAN
        self._num_prompts = num_prompts
        self._choices_per_prompt = 1
        self._items: list[ReplyItem] = []
        self._waiter: asyncio.Future[None] | None = None

    def expect(self, num_choices: int) -> None:
        """The request is about to be queued, as so many choices."""
        self._choices_per_prompt = num_choices // self._num_prompts
        self.uncounted = set(range(self._num_prompts))

    def count_prompt(self, choice: int, end: Finished) -> None:
        """Count the prompt of a choice that has ended, once for all of its choices."""
        prompt = choice // self._choices_per_prompt
        if prompt in self.uncounted:
            self.uncounted.remove(prompt)
            self.prompt_tokens += end.prompt_tokens
            self.image_tokens += end.image_tokens

    def put(self, item: ReplyItem) -> None:
        """Add what happened, and wake the response."""
        self._items.append(item)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> list[ReplyItem]:
        """Return everything that has come since the last call; waits for something."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        return items

    def abandon(self) -> None:
        """The client has left: wake the response, wherever it waits."""
        self.abandoned = True
        self.put((0, ClientGone()))
        if self.sending_since and self.response_task is not None:
            self.response_task.cancel()

    def close(self) -> None:
        """The response is complete, or given up: stop watching the client."""
        self.sending_since = 0.0
        if self.watch is not None:
            self.watch.cancel()

    @property
    def waiting_items(self) -> int:
        """Events that the response has not taken yet."""
        return len(self._items)
