"""What POST /v1/responses answers: the response object, and its parts. Pure.

Form: https://platform.openai.com/docs/api-reference/responses/object.
"""

from typing import Any, Literal

import msgspec

from services.gateway.chunks import TokenLogprobContent, Usage
from services.gateway.response_schemas import ResponseRequest
from services.gateway.response_tools import (
    ResponseChoice,
    ResponseFunctionCall,
    ResponseFunctionTool,
)
from services.protocol.messages import FinishReason

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseOutputText(msgspec.Struct, frozen=True, gc=False):
    """What the model wrote."""

    text: str
    logprobs: list[TokenLogprobContent]
    annotations: list[str] = []
    type: Literal["output_text"] = "output_text"


class ResponseOutputMessage(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="message"):
    """The one item of an answer's `output`, where that is a text."""

    id: str
    status: Status
    content: list[ResponseOutputText]
    role: Literal["assistant"] = "assistant"


OutputItem = ResponseOutputMessage | ResponseFunctionCall


class CachedTokens(msgspec.Struct, frozen=True, gc=False):
    """How many tokens came out of, or went into, a cache that is billed apart: none."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class ReasoningTokens(msgspec.Struct, frozen=True, gc=False):
    """How many tokens were thought and not said: none."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, gc=False):
    """Exact token counts; image tokens are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CachedTokens = CachedTokens()
    output_tokens_details: ReasoningTokens = ReasoningTokens()


class ResponseFailure(msgspec.Struct, frozen=True, gc=False):
    """Why there is no answer."""

    message: str
    code: str = "server_error"


class IncompleteDetails(msgspec.Struct, frozen=True, gc=False):
    """Why an answer is cut short."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(msgspec.Struct, frozen=True, gc=False):
    """The body of an answer, and what the events of a stream say of it."""

    id: str
    created_at: int
    model: str
    status: Status
    output: list[OutputItem]
    usage: ResponseUsage | None = None
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    temperature: float = 1.0
    top_p: float = 1.0
    top_logprobs: int = 0
    text: dict[str, Any] = {}
    tools: list[ResponseFunctionTool] = []
    tool_choice: ResponseChoice = "none"
    parallel_tool_calls: bool = False
    previous_response_id: str | None = None
    truncation: Literal["disabled"] = "disabled"
    background: bool = False
    store: bool = False
    object: Literal["response"] = "response"


def empty_response(asked: ResponseRequest, response_id: str, created: int) -> ResponseObject:
    """Return the response of which nothing is known yet but the question."""
    wanted = asked.text.format if asked.text is not None else None
    form: dict[str, Any] = {"type": "text"} if wanted is None else msgspec.to_builtins(wanted)
    return ResponseObject(
        id=response_id,
        created_at=created,
        model=asked.model,
        status="in_progress",
        output=[],
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        metadata=asked.metadata or {},
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_logprobs=asked.top_logprobs or 0,
        text={"format": form},
        tools=asked.tools or [],
        tool_choice=asked.tool_choice or ("auto" if asked.tools else "none"),
    )


def message_id(response_id: str) -> str:
    """Return the id of a response's one message."""
    return f"msg_{response_id.removeprefix('resp_')}"


def message_of(
    response_id: str, reason: FinishReason, part: ResponseOutputText
) -> ResponseOutputMessage:
    """Return a message that is complete, or cut short."""
    status: Status = "completed" if reason == "stop" else "incomplete"
    return ResponseOutputMessage(message_id(response_id), status, [part])


def ended(empty: ResponseObject, item: OutputItem, usage: Usage) -> ResponseObject:
    """Return the whole response."""
    is_complete = item.status == "completed"
    return msgspec.structs.replace(
        empty,
        status="completed" if is_complete else "incomplete",
        output=[item],
        usage=ResponseUsage(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
        incomplete_details=None if is_complete else IncompleteDetails(),
    )
