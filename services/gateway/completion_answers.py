"""What POST /v1/completions answers: bodies, and the events of a stream. Pure.

Form: https://platform.openai.com/docs/api-reference/completions/object.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from services.gateway.chunks import ErrorAnswer, Usage
from services.gateway.sse import DONE, error_event, escaped
from services.gateway.translate import CompletionBuilder
from services.protocol.messages import Finished, FinishReason, TokenLogprob, Tokens

_json = msgspec.json.encode


class TextLogprobs(msgspec.Struct, frozen=True, gc=False):
    """One entry per token; natural logs, offsets in characters of the answer."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]] | None


class TextChoice(msgspec.Struct, frozen=True, gc=False):
    """One of the answers: n for the first prompt, then n for the second."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None


class TextCompletion(msgspec.Struct, frozen=True, gc=False):
    """The body of an answer that is not streamed, and of each event of a stream."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None
    object: Literal["text_completion"] = "text_completion"


class TextSseFormatter:
    """Renders the events of one stream; see `StreamFormat`.

    Args:
        include_usage: a last event, without choices, has the usage.
    """

    def __init__(self, request_id: str, model: str, created: int, *, include_usage: bool) -> None:
        self._empty = TextCompletion(request_id, created, model, [], None)
        self._include_usage = include_usage
        self._lengths: dict[int, int] = {}

    def begin(self, choice: int) -> bytes:  # noqa: ARG002 - of `StreamFormat`
        """Nothing comes before the first token."""
        return b""

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """One event per token of `event`."""
        parts: list[bytes] = []
        for place, text in enumerate(event.texts):
            logprobs = None
            if event.logprobs is not None:
                entry = event.logprobs[place]
                start = self._lengths.get(choice, 0)
                self._lengths[choice] = start + len(entry.token)
                logprobs = text_logprobs([entry], start)
            parts.append(self._event([TextChoice(choice, text, logprobs)]))
        return b"".join(parts)

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The last event of a choice."""
        return self._event([TextChoice(choice, "", finish_reason=reason)])

    def end(self, usage: Usage) -> bytes:
        """The end of the stream, with the usage where it was asked for."""
        return self._event([], usage) + DONE if self._include_usage else DONE

    def fail(self, error: ErrorAnswer) -> bytes:
        """The end of a stream that failed."""
        return error_event(error) + DONE

    def _event(self, choices: list[TextChoice], usage: Usage | None = None) -> bytes:
        body = msgspec.structs.replace(self._empty, choices=choices, usage=usage)
        return b"data: " + escaped(_json(body)) + b"\n\n"


def text_completion(
    answers: CompletionBuilder, request_id: str, model: str, created: int, usage: Usage
) -> TextCompletion:
    """Return the whole answer; every choice has ended."""
    choices = [
        TextChoice(
            index,
            answer.text,
            text_logprobs(answer.logprobs, 0) if answer.logprobs else None,
            answer.finished.finish_reason,
        )
        for index, answer in enumerate(answers.answers())
    ]
    return TextCompletion(request_id, created, model, choices, usage)


def text_logprobs(entries: Sequence[TokenLogprob], start: int) -> TextLogprobs:
    """Return the legacy form of log-probabilities; `start` is where the first token stands."""
    offsets: list[int] = []
    for entry in entries:
        offsets.append(start)
        start += len(entry.token)
    tops = [{token: logprob for _, token, logprob in entry.top} for entry in entries]
    return TextLogprobs(
        offsets,
        [entry.logprob for entry in entries],
        [entry.token for entry in entries],
        tops if any(tops) else None,
    )


def usage_by_prompt(ends: Mapping[int, Finished], choices_per_prompt: int) -> Usage:
    """Return the usage of the choices that have ended; each prompt counts once."""
    prompts = {index // choices_per_prompt: end.prompt_tokens for index, end in ends.items()}
    prompt_tokens = sum(prompts.values())
    completion = sum(end.completion_tokens for end in ends.values())
    return Usage(prompt_tokens, completion, prompt_tokens + completion)
