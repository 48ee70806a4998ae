"""OpenAI's legacy completions as a msgspec struct: a text to be continued, and how.

Ranges are those of chat completions (`openai_schemas.py`). Source of names: OpenAI's API reference,
completions. Pure.
"""

from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from services.gateway.openai_schemas import (
    MAX_CHOICES,
    MAX_NAME_LENGTH,
    MAX_STOPS,
    MAX_TEXT_LENGTH,
    MAX_TOKENS,
    ChatCompletionRequest,
    LogitBias,
    Penalty,
    Stop,
    StreamOptions,
    TokenBudget,
    UserMessage,
    check_together,
    converted,
)
from services.gateway.refused_fields import COMPLETIONS
from services.protocol.errors import ErrorCode, RequestError

MAX_LOGPROBS = 20
DEFAULT_MAX_TOKENS = 16
"""OpenAI's: https://platform.openai.com/docs/api-reference/completions/create."""

Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_LENGTH)]


class CompletionRequest(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of POST /v1/completions; null means the default, as at OpenAI."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    prompt: Prompt | Annotated[list[Prompt], Meta(min_length=1, max_length=MAX_CHOICES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenBudget | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(min_length=1, max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    logit_bias: LogitBias | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts, each of which is continued by itself."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def read_completion_request(value: object) -> CompletionRequest:
    """Return the request in a parsed JSON value; raises RequestError with its parameter's name."""
    _refuse_token_ids(value)
    request = converted(value, CompletionRequest, COMPLETIONS)
    choices = len(request.prompts) * (request.n or 1)
    if choices > MAX_CHOICES:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"{len(request.prompts)} prompts with n {request.n or 1} are {choices} answers, "
            f"at most {MAX_CHOICES}; send several requests",
            param="n",
        )
    return request


def as_chat(request: CompletionRequest) -> ChatCompletionRequest:
    """Return the same wishes in the words of a chat completion; each prompt is a message."""
    chat = ChatCompletionRequest(
        model=request.model,
        messages=[UserMessage(prompt) for prompt in request.prompts],
        stream=request.stream,
        stream_options=request.stream_options,
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        n=request.n,
        stop=request.stop,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logprobs=None if request.logprobs is None else True,
        top_logprobs=request.logprobs,
        min_tokens=request.min_tokens,
        logit_bias=request.logit_bias,
        user=request.user,
    )
    check_together(chat)
    return chat


def _refuse_token_ids(value: object) -> None:
    """Say why a prompt of numbers is refused; every other mistake is msgspec's to find."""
    prompt: Any = cast("dict[str, Any]", value).get("prompt") if isinstance(value, dict) else None
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            "prompt: token ids are not taken, because a tokenizer is its model's own; send text",
            param="prompt",
        )
