"""The events of a streamed chat completion that calls a function. Pure.

A call is told whole, in one event, when it is complete: half of its JSON is of no use, and its name
comes first in every form of it. An answer that was cut is told as the text that it is.
"""

import msgspec

from services.gateway.sse import SseFormatter, escaped
from services.gateway.tool_calls import call_in
from services.protocol.messages import FinishReason, Tokens


class ToolSseFormatter(SseFormatter):
    """Renders the events of one stream; see `SseFormatter`."""

    def __init__(self, request_id: str, model: str, created: int, *, include_usage: bool) -> None:
        super().__init__(request_id, model, created, include_usage=include_usage)
        self._request_id = request_id
        self._held: dict[int, list[Tokens]] = {}

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """Nothing yet: they are kept until the call is complete."""
        self._held.setdefault(choice, []).append(event)
        return b""

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The call, and the end of its choice."""
        held = self._held.pop(choice, [])
        text = "".join(text for event in held for text in event.texts)
        call = call_in(text, self._request_id, choice)
        if call is None:
            said = [super(ToolSseFormatter, self).tokens(choice, event) for event in held]
            return b"".join(said) + super().finish(choice, reason)
        delta = {"tool_calls": [{"index": 0, **msgspec.to_builtins(call)}]}
        told = self.delta(choice, escaped(msgspec.json.encode(delta)), None)
        return told + self.delta(choice, b"{}", "tool_calls")
