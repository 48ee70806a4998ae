"""What every API that generates has in common: a question that is served, and the form of answers.

A route reads its body into a `Question`; `serving.py` admits, submits and collects it; the question
says what its API's answer looks like. What does *not* live here: any one API's form (`chunks.py`,
`sse.py`), or the way through the gateway (`serving.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from services.gateway.chunks import ErrorAnswer, Usage
from services.gateway.openai_schemas import ChatCompletionRequest, ImageUrl
from services.gateway.translate import CompletionBuilder, Origin, Target
from services.protocol.errors import GalenError
from services.protocol.messages import Finished, FinishReason, GenerationRequest, ImageRef, Tokens


def renamed(error: GalenError, names: Mapping[str, str]) -> GalenError:
    """Return an error that names its parameter as the API does by which the request came."""
    if error.param is not None:
        error.param = names.get(error.param, error.param)
    return error


class StreamFormat(Protocol):
    """Renders one answer as server-sent events; it may keep what it has rendered."""

    def begin(self, choice: int) -> bytes:
        """What comes before the first token of a choice."""
        ...

    def tokens(self, choice: int, event: Tokens) -> bytes:
        """The events of tokens."""
        ...

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """What comes after the last token of a choice."""
        ...

    def end(self, usage: Usage) -> bytes:
        """The end of a stream whose choices have all ended."""
        ...

    def fail(self, error: ErrorAnswer) -> bytes:
        """The end of a stream that failed."""
        ...


class Question(Protocol):
    """One request to generate, whatever API it came by."""

    @property
    def chat(self) -> ChatCompletionRequest:
        """What is asked, in the words of chat completions: the model and every parameter."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """What an engine must be able to do beside `chat`'s parameters, as its card says it."""
        ...

    @property
    def num_prompts(self) -> int:
        """How many prompts are answered, each with `chat.n` choices."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """This API's names of `chat`'s parameters, where they differ."""
        ...

    @property
    def images(self) -> Sequence[tuple[ImageUrl, str]]:
        """Every image, with the path of its URL, in the order of the conversation."""
        ...

    def requests(
        self, refs: Sequence[ImageRef], origin: Origin, target: Target
    ) -> list[GenerationRequest]:
        """Return one request per choice; `refs` are those of `images`."""
        ...

    def usage(self, ends: Mapping[int, Finished]) -> Usage:
        """Return the usage of the choices that have ended, by their index."""
        ...

    def stream_format(self, request_id: str, created: int) -> StreamFormat:
        """Return what renders the stream; `created` in seconds of the calendar."""
        ...

    def whole(self, answers: CompletionBuilder, request_id: str, created: int) -> msgspec.Struct:
        """Return the body of an answer that is not streamed."""
        ...
