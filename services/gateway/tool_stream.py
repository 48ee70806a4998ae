"""The events of a streamed chat completion that calls a function. Pure.

A call is told whole, in one event, when it is complete: half of its JSON is of no use, and its name
comes first in every form of it. An answer that was cut is told as the text that it is. Where a text
may come instead, it is told token by token from its first character on, which no call begins with.
"""

import msgspec

from services.gateway.sse import SseFormatter, escaped
from services.gateway.tool_calls import call_in, is_text
from services.protocol.messages import FinishReason, Tokens


class ToolSseFormatter(SseFormatter):
    """Renders the events of one stream; see `SseFormatter`.

    Args:
        may_be_text: an answer that does not begin with `{` is a text.
    """

    def __init__(
        self,
        request_id: str,
        model: str,
        created: int,
        *,
        include_usage: bool,
        may_be_text: bool = False,
    ) -> None:
        super().__init__(request_id, model, created, include_usage=include_usage)
        self._request_id = request_id
        self._held: dict[int, list[Tokens]] = {}
        self._may_be_text = may_be_text
        self._is_text: dict[int, bool] = {}

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """Those of a text; those of a call are kept until it is complete."""
        if self._may_be_text and choice not in self._is_text:
            found = is_text("".join(event.texts))
            if found is not None:
                self._is_text[choice] = found
        self._held.setdefault(choice, []).append(event)
        return self._told(choice) if self._is_text.get(choice) else b""

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The call, and the end of its choice."""
        text = "".join(text for event in self._held.get(choice, ()) for text in event.texts)
        call = call_in(text, self._request_id, choice)
        if call is None:
            return self._told(choice) + super().finish(choice, reason)
        delta = {"tool_calls": [{"index": 0, **msgspec.to_builtins(call)}]}
        told = self.delta(choice, escaped(msgspec.json.encode(delta)), None)
        return told + self.delta(choice, b"{}", "tool_calls")

    def _told(self, choice: int) -> bytes:
        """The events of what was kept, as text."""
        held = self._held.pop(choice, [])
        return b"".join([super(ToolSseFormatter, self).tokens(choice, event) for event in held])
