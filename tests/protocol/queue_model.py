"""What the parties of the queue machine know: a gateway of a request, a worker of what it runs."""

from dataclasses import dataclass

import msgspec

from services.protocol import keys
from services.protocol.messages import (
    Failed,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Lost,
    Tokens,
)

LENGTH = 3
"""Tokens of every answer."""


@dataclass(slots=True)
class Ticket:
    """What the gateway knows of a request."""

    request: GenerationRequest
    next_index: int = 0
    ends: int = 0
    cancelled: bool = False

    @property
    def is_open(self) -> bool:
        return not self.ends and not self.cancelled

    def take(self, event: GenerationEvent) -> None:
        """Count what an event of the present attempt says; one after the end is an error."""
        assert not self.ends, f"{event} after the end"
        match event:
            case Tokens():
                assert event.index <= self.next_index, f"gap: {event} at {self.next_index}"
                self.next_index = max(self.next_index, event.index + len(event.token_ids))
            case Finished():
                assert event.completion_tokens == self.next_index == LENGTH
                self.ends += 1
            case Failed():
                self.ends += 1
            case Lost(final=True):
                assert self.request.strikes + 1 >= keys.DELIVERY_LIMIT
                self.ends += 1
            case Lost():
                pass

    def begin_next_attempt(self, *, strike: bool, alone: bool) -> None:
        self.request = msgspec.structs.replace(
            self.request,
            attempt=self.request.attempt + 1,
            strikes=self.request.strikes + int(strike),
            alone=alone,
        )


@dataclass(slots=True)
class Job:
    """What a worker believes that it runs."""

    request_id: str
    attempt: int
    index: int
