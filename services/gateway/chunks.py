"""OpenAI's answers as structs: usage, choices, log-probabilities, models, errors. Pure.

Form: https://platform.openai.com/docs/api-reference/chat/object.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from services.gateway.tool_schemas import ToolCall
from services.protocol.messages import (
    FinishReason,
    ImageMode,
    ImageRecipe,
    Provenance,
    TokenLogprob,
)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Exact token counts; image tokens are part of `prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """An alternative to a token, natural log."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobContent(msgspec.Struct, frozen=True, gc=False):
    """A token, its log-probability (natural log) and its alternatives."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct, frozen=True, gc=False):
    """One entry per token of the answer."""

    content: list[TokenLogprobContent]
    refusal: None = None


class AnswerMessage(msgspec.Struct, frozen=True, gc=False):
    """What the model answered: a text, or a call."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One of the n answers."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason | Literal["tool_calls"]
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, gc=False):
    """The body of an answer that is not streamed."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class ImageCapabilities(msgspec.Struct, frozen=True, gc=False):
    """What a model takes of images; sizes are None where they depend on the image."""

    max_count: int
    width_px: int | None = None
    height_px: int | None = None
    mode: ImageMode | None = None


class Capabilities(msgspec.Struct, frozen=True, gc=False):
    """What a model can do: for programs that choose one."""

    engine: str
    context_length: int
    images: ImageCapabilities
    parameters: list[str]  # request parameters that act, in the words of chat completions
    routes: list[str]
    adapters: list[str]  # ids of the adapters that run on it
    quantization: str | None = None


class Model(msgspec.Struct, frozen=True, gc=False):
    """An entry of /v1/models; what OpenAI's has not is ours."""

    id: str
    created: int
    engine: str
    context_length: int
    max_images: int
    state: str
    galen: Capabilities
    parent: str | None = None  # of an adapter: its base model
    is_base_verified: bool | None = None  # of an adapter: whether its manifest names that base
    adapter_fingerprint: str | None = None
    image_recipe: ImageRecipe | None = None  # None: the input's size depends on the image
    provenance: Provenance = Provenance()  # of an adapter: its base's
    owned_by: str = "galen"
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct, frozen=True, gc=False):
    """The body of /v1/models."""

    data: list[Model]
    object: Literal["list"] = "list"


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(msgspec.Struct, frozen=True, gc=False):
    """The body of every error."""

    error: ErrorBody


def logprobs_content(entries: Sequence[TokenLogprob]) -> list[TokenLogprobContent]:
    """Return OpenAI's form of log-probabilities."""
    return [
        TokenLogprobContent(
            token=entry.token,
            logprob=entry.logprob,
            bytes=list(entry.token.encode()),
            top_logprobs=[
                TopLogprob(token, logprob, list(token.encode())) for _, token, logprob in entry.top
            ],
        )
        for entry in entries
    ]
