"""Tools of a chat completion as msgspec structs: functions, the choice of one, and calls. Pure.

Source of names: OpenAI's API reference, chat completions. How they act: `tool_calls.py`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_TOOLS = 128
"""OpenAI's: https://platform.openai.com/docs/api-reference/chat/create."""
MAX_ARGUMENTS_LENGTH = 1 << 20

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]
CallId = Annotated[str, Meta(min_length=1, max_length=128)]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class FunctionSpec(_Strict, frozen=True, gc=False):
    """A function; its schema always binds, whatever `strict` says."""

    name: FunctionName
    description: Annotated[str, Meta(max_length=4096)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Strict, frozen=True, gc=False, tag_field="type", tag="function"):
    """A tool that is a function, the only kind here."""

    function: FunctionSpec


class FunctionReference(_Strict, frozen=True, gc=False):
    """The name of one of the functions."""

    name: FunctionName


class NamedToolChoice(_Strict, frozen=True, gc=False, tag_field="type", tag="function"):
    """The answer calls this function."""

    function: FunctionReference


class FunctionCall(_Strict, frozen=True, gc=False):
    """Which function, with which arguments, as JSON text."""

    name: FunctionName
    arguments: Annotated[str, Meta(max_length=MAX_ARGUMENTS_LENGTH)]


class ToolCall(_Strict, frozen=True, gc=False):
    """A call that the model made."""

    id: CallId
    function: FunctionCall
    type: Literal["function"] = "function"


Tools = Annotated[list[FunctionTool], Meta(min_length=1, max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice
ToolCalls = Annotated[list[ToolCall], Meta(min_length=1, max_length=MAX_TOOLS)]
