"""Functions in OpenAI's responses as msgspec structs, and as a chat completion has them. Pure.

Source of names: OpenAI's API reference, responses. How they act: `tool_calls.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from services.gateway.openai_schemas import (
    AssistantMessage,
    ChatMessage,
    Text,
    ToolMessage,
)
from services.gateway.tool_calls import call_in
from services.gateway.tool_schemas import (
    MAX_ARGUMENTS_LENGTH,
    MAX_TOOLS,
    CallId,
    FunctionCall,
    FunctionName,
    FunctionReference,
    FunctionSpec,
    FunctionTool,
    NamedToolChoice,
    ToolCall,
    ToolChoice,
)

ItemId = Annotated[str, Meta(max_length=128)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class ResponseFunctionTool(_Strict, frozen=True, gc=False, tag_field="type", tag="function"):
    """A function; its schema always binds, whatever `strict` says."""

    name: FunctionName
    description: Annotated[str, Meta(max_length=4096)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseToolChoice(_Strict, frozen=True, gc=False, tag_field="type", tag="function"):
    """The answer calls this function."""

    name: FunctionName


class ResponseFunctionCall(_Strict, frozen=True, gc=False, tag_field="type", tag="function_call"):
    """A call: an item of an answer's `output`, or of the history."""

    call_id: CallId
    name: FunctionName
    arguments: Annotated[str, Meta(max_length=MAX_ARGUMENTS_LENGTH)]
    id: ItemId | None = None
    status: ItemStatus | None = None


class FunctionCallOutput(
    _Strict, frozen=True, gc=False, tag_field="type", tag="function_call_output"
):
    """What a function gave back."""

    call_id: CallId
    output: Text
    id: ItemId | None = None
    status: ItemStatus | None = None


ResponseTools = Annotated[list[ResponseFunctionTool], Meta(min_length=1, max_length=MAX_TOOLS)]
ResponseChoice = Literal["none", "auto", "required"] | ResponseToolChoice


def chat_tools(tools: Sequence[ResponseFunctionTool] | None) -> list[FunctionTool] | None:
    """Return the functions as a chat completion has them."""
    if tools is None:
        return None
    return [
        FunctionTool(FunctionSpec(tool.name, tool.description, tool.parameters, tool.strict))
        for tool in tools
    ]


def chat_choice(choice: ResponseChoice | None) -> ToolChoice | None:
    """Return the choice as a chat completion has it."""
    if isinstance(choice, ResponseToolChoice):
        return NamedToolChoice(FunctionReference(choice.name))
    return choice


def with_item(
    messages: Sequence[ChatMessage], item: ResponseFunctionCall | FunctionCallOutput
) -> list[ChatMessage]:
    """Return a conversation that goes on by a call or by a result; calls in a row are one turn."""
    if isinstance(item, FunctionCallOutput):
        return [*messages, ToolMessage(item.output, item.call_id)]
    call = ToolCall(item.call_id, FunctionCall(item.name, item.arguments))
    last = messages[-1] if messages else None
    if not isinstance(last, AssistantMessage):
        return [*messages, AssistantMessage(tool_calls=[call])]
    calls = [*(last.tool_calls or ()), call]
    return [*messages[:-1], msgspec.structs.replace(last, tool_calls=calls)]


def call_item(response_id: str, text: str) -> ResponseFunctionCall | None:
    """Return the call that an answer is; None for one that was cut before its end."""
    tail = response_id.removeprefix("resp_")
    call = call_in(text, f"resp-{tail}", 0)
    if call is None:
        return None
    made = call.function
    return ResponseFunctionCall(call.id, made.name, made.arguments, f"fc_{tail}", "completed")
