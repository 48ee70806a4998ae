"""Server-sent events of a streamed chat completion, as bytes. Pure.

One event per token: the frame around a token's text is rendered once per choice, so that a token
costs one concatenation. Form: https://platform.openai.com/docs/api-reference/chat-streaming, and
https://html.spec.whatwg.org/multipage/server-sent-events.html for the framing.
"""

import msgspec

from services.gateway.chunks import ErrorAnswer, Usage, logprobs_content
from services.protocol.messages import FinishReason, TokenLogprob, Tokens

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

_json = msgspec.json.encode
_SEPARATORS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\u0085", b"\\u0085"))
"""Legal in JSON and in events, but clients that split lines as Unicode does would split there."""


class SseFormatter:
    """Renders the events of one stream.

    Args:
        include_usage: every chunk then has `usage: null`, and a last one the real usage.
    """

    def __init__(self, request_id: str, model: str, created: int, *, include_usage: bool) -> None:
        head = {"id": request_id, "object": "chat.completion.chunk", "created": created}
        self._head = b"data: " + _json({**head, "model": model})[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def begin(self, choice: int) -> bytes:
        """The first event of a choice."""
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return b"%b%b%b%b" % (self._head, _choice(choice), delta, self._tail)

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """One event per token of `event`."""
        before, after = self._frame(choice)
        if event.logprobs is None:
            return b"".join([before + _text(text) + after for text in event.texts])
        return b"".join(
            self._token_with_logprob(choice, text, logprob)
            for text, logprob in zip(event.texts, event.logprobs, strict=True)
        )

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The last event of a choice."""
        return self.delta(choice, b"{}", reason)

    def delta(self, choice: int, delta: bytes, reason: str | None) -> bytes:
        """An event with a delta of any kind, as JSON."""
        body = b'"delta":%b,"logprobs":null,"finish_reason":%b}]' % (delta, _json(reason))
        return b"%b%b%b%b" % (self._head, _choice(choice), body, self._tail)

    def usage(self, usage: Usage) -> bytes:
        """The event without choices that holds the usage."""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, _json(usage))

    def end(self, usage: Usage) -> bytes:
        """The end of the stream, with the usage where it was asked for."""
        return self.usage(usage) + DONE if self._include_usage else DONE

    def fail(self, error: ErrorAnswer) -> bytes:
        """The end of a stream that failed."""
        return error_event(error) + DONE

    def _frame(self, choice: int) -> tuple[bytes, bytes]:
        frame = self._around.get(choice)
        if frame is None:
            before = b'%b%b"delta":{"content":' % (self._head, _choice(choice))
            after = b'},"logprobs":null,"finish_reason":null}]%b' % self._tail
            frame = self._around[choice] = (before, after)
        return frame

    def _token_with_logprob(self, choice: int, text: str, logprob: TokenLogprob) -> bytes:
        body = b'"delta":{"content":%b},"logprobs":{"content":%b},"finish_reason":null}]' % (
            _text(text),
            escaped(_json(logprobs_content([logprob]))),
        )
        return b"%b%b%b%b" % (self._head, _choice(choice), body, self._tail)


def error_event(error: object) -> bytes:
    """The event that ends a stream badly; OpenAI's client raises on it."""
    return b"data: " + _json(error) + b"\n\n"


def _text(text: str) -> bytes:
    return _json(text) if text.isascii() else escaped(_json(text))


def escaped(encoded: bytes) -> bytes:
    """Return JSON that stays one line to every client."""
    for separator, escape in _SEPARATORS:
        encoded = encoded.replace(separator.encode(), escape)
    return encoded


def _choice(choice: int) -> bytes:
    return b',"choices":[{"index":%d,' % choice
