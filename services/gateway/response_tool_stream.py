"""The events of a streamed response that may call a function. Pure.

A call: response.output_item.added, response.function_call_arguments.delta (one, when the call is
complete), response.function_call_arguments.done, response.output_item.done. A text, and a call that
was cut, have the events of `response_stream.py`.
"""

import msgspec

from services.gateway.response_answers import ResponseObject
from services.gateway.response_stream import ResponseSseFormatter
from services.gateway.response_tools import ResponseFunctionCall, call_item
from services.gateway.tool_calls import is_text
from services.protocol.messages import FinishReason, Tokens


class ToolResponseSseFormatter(ResponseSseFormatter):
    """Renders the events of one stream; see `ResponseSseFormatter`.

    Args:
        may_be_text: an answer that does not begin with `{` is a text.
    """

    def __init__(self, response: ResponseObject, *, may_be_text: bool) -> None:
        super().__init__(response)
        self._is_text: bool | None = None if may_be_text else False
        self._held: list[Tokens] = []

    def begin(self, choice: int) -> bytes:  # noqa: ARG002 - of `StreamFormat`
        """The response is there; whether its item is a text or a call is not known yet."""
        return self.response_begins()

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """Those of a text; those of a call are kept until it is complete."""
        if self._is_text:
            return super().tokens(choice, event)
        if self._is_text is None:
            self._is_text = is_text("".join(event.texts))
        self._held.append(event)
        return self._as_text(choice) if self._is_text else b""

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The call, or the end of the text."""
        if self._is_text:
            return super().finish(choice, reason)
        text = "".join(text for event in self._held for text in event.texts)
        call = call_item(self.response_id, text)
        if call is None:
            return self._as_text(choice) + super().finish(choice, reason)
        self.item = call
        return self._call(call)

    def _as_text(self, choice: int) -> bytes:
        """The beginning of a message, and the events of what was kept."""
        held, self._held = self._held, []
        said = [super(ToolResponseSseFormatter, self).tokens(choice, event) for event in held]
        return self.message_begins() + b"".join(said)

    def _call(self, call: ResponseFunctionCall) -> bytes:
        empty = msgspec.structs.replace(call, arguments="", status="in_progress")
        kind, arguments = "response.function_call_arguments", call.arguments
        return b"".join(
            [
                self.event("response.output_item.added", output_index=0, item=empty),
                self.event(f"{kind}.delta", item_id=call.id, output_index=0, delta=arguments),
                self.event(
                    f"{kind}.done",
                    item_id=call.id,
                    output_index=0,
                    name=call.name,
                    arguments=arguments,
                ),
                self.event("response.output_item.done", output_index=0, item=call),
            ]
        )
