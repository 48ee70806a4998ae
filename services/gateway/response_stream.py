"""The events of a streamed response, in OpenAI's order. Pure.

response.created, response.in_progress, response.output_item.added, response.content_part.added,
response.output_text.delta (one per token that says something), response.output_text.done,
response.content_part.done, response.output_item.done, and response.completed or, where the length
cut it, response.incomplete. A failure is `error` and then response.failed.
Form: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import msgspec

from services.gateway.chunks import ErrorAnswer, TokenLogprobContent, Usage, logprobs_content
from services.gateway.response_answers import (
    OutputItem,
    ResponseFailure,
    ResponseObject,
    ResponseOutputMessage,
    ResponseOutputText,
    ended,
    message_id,
    message_of,
)
from services.gateway.sse import escaped
from services.protocol.messages import FinishReason, Tokens

_json = msgspec.json.encode


class ResponseSseFormatter:
    """Renders the events of one stream; see `StreamFormat`. A response has one choice."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self.response_id = response.id
        self._message_id = message_id(response.id)
        self._number = 0
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprobContent] = []
        self.item: OutputItem | None = None

    def begin(self, choice: int) -> bytes:  # noqa: ARG002 - of `StreamFormat`
        """The response, its message, and the message's text are there, all of them empty."""
        return self.response_begins() + self.message_begins()

    def response_begins(self) -> bytes:
        """The response is there, empty."""
        return self.event("response.created", response=self._response) + self.event(
            "response.in_progress", response=self._response
        )

    def message_begins(self) -> bytes:
        """The message and its text are there, empty."""
        message = ResponseOutputMessage(self._message_id, "in_progress", [])
        return self.event(
            "response.output_item.added", output_index=0, item=message
        ) + self._in_part("response.content_part.added", part=ResponseOutputText("", []))

    def tokens(self, choice: int, event: Tokens) -> bytes:  # noqa: ARG002 - of `StreamFormat`
        """One event per token that releases text, or has log-probabilities."""
        parts: list[bytes] = []
        for place, text in enumerate(event.texts):
            entries = [] if event.logprobs is None else logprobs_content([event.logprobs[place]])
            self._texts.append(text)
            self._logprobs += entries
            if text or entries:
                parts.append(
                    self._in_part("response.output_text.delta", delta=text, logprobs=entries)
                )
        return b"".join(parts)

    def finish(self, choice: int, reason: FinishReason) -> bytes:  # noqa: ARG002 - of `StreamFormat`
        """The text, its part and the message are complete."""
        part = ResponseOutputText("".join(self._texts), self._logprobs)
        self.item = message_of(self._response.id, reason, part)
        return b"".join(
            [
                self._in_part("response.output_text.done", text=part.text, logprobs=part.logprobs),
                self._in_part("response.content_part.done", part=part),
                self.event("response.output_item.done", output_index=0, item=self.item),
            ]
        )

    def end(self, usage: Usage) -> bytes:
        """The whole response, with its usage."""
        assert self.item is not None  # noqa: S101 - its choice has ended
        whole = ended(self._response, self.item, usage)
        return self.event(f"response.{whole.status}", response=whole)

    def fail(self, error: ErrorAnswer) -> bytes:
        """The error, and the response that failed of it."""
        body = error.error
        failed = msgspec.structs.replace(
            self._response, status="failed", error=ResponseFailure(body.message)
        )
        told = self.event("error", code=body.code, message=body.message, param=body.param)
        return told + self.event("response.failed", response=failed)

    def _in_part(self, kind: str, **fields: object) -> bytes:
        """An event about the one text of the one message."""
        return self.event(kind, item_id=self._message_id, output_index=0, content_index=0, **fields)

    def event(self, kind: str, **fields: object) -> bytes:
        """The next event of this stream."""
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), escaped(_json(body)))
