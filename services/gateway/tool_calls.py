"""How a model calls a function here: it writes JSON that a schema binds. Pure.

No chat template is asked whether it knows tools. The functions stand in a system message before the
conversation, the answer is bound token by token to `{"name": ..., "arguments": {...}}`, and in the
history calls and results are texts of the same form. With `auto` the answer may be a text as well;
it does not begin with `{`, so its first character tells an answer from a call. Documented in
docs/api.md.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.tool_schemas import (
    FunctionCall,
    FunctionSpec,
    FunctionTool,
    NamedToolChoice,
    ToolCall,
    ToolChoice,
)

_json = msgspec.json.encode

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_FORM = """a JSON object, {"name": the name of the function, "arguments": an object}.\n"""
_MUST_CALL = f"Call one of these functions. Answer with nothing but {_FORM}"
_MAY_CALL = (
    "You may call one of these functions, where it helps to answer. To call it, answer with "
    f"nothing but {_FORM}Otherwise answer with a text.\n"
)


class _Written(msgspec.Struct, frozen=True, gc=False):
    """A call as the model writes it."""

    name: str
    arguments: msgspec.Raw


def offered(tools: Sequence[FunctionTool], choice: ToolChoice | None) -> list[FunctionSpec]:
    """Return the functions that the answer may call; [] where it is to call none."""
    if choice == "none":
        return []
    if isinstance(choice, NamedToolChoice):
        return [tool.function for tool in tools if tool.function.name == choice.function.name]
    return [tool.function for tool in tools]


def may_be_text(choice: ToolChoice | None) -> bool:
    """Whether the answer may call a function, or not."""
    return choice in (None, "auto")


def preamble(functions: Sequence[FunctionSpec], choice: ToolChoice | None) -> str:
    """Return what the model is told of the functions."""
    lines = [
        _json({
            "name": function.name,
            "description": function.description or "",
            "parameters": _parameters(function),
        }).decode()
        for function in functions
    ]  # fmt: skip
    return (_MAY_CALL if may_be_text(choice) else _MUST_CALL) + "\n".join(lines)


def call_schema(functions: Sequence[FunctionSpec]) -> str:
    """Return the JSON Schema of a call of one of the functions.

    Each function's schema has an `$id`, so that its `$ref`s are looked up within it.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f.name}, "arguments": _with_id(f)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for f in functions
    ]
    return _json(calls[0] if len(calls) == 1 else {"anyOf": calls}).decode()


def call_in(text: str, request_id: str, choice: int) -> ToolCall | None:
    """Return the call that an answer is; None for one that was cut before its end."""
    try:
        written = msgspec.json.decode(text.encode(), type=_Written)
    except msgspec.DecodeError:
        return None
    call = FunctionCall(written.name, bytes(written.arguments).decode())
    return ToolCall(f"call_{request_id.partition('-')[2]}_{choice}", call)


def is_text(beginning: str) -> bool | None:
    """Whether an answer that may be either is a text, not a call; None: white space cannot tell."""
    said = beginning.lstrip()
    return not said.startswith("{") if said else None


def text_of_calls(calls: Sequence[ToolCall]) -> str:
    """Return calls of the history as the model would have written them."""
    return "\n".join(
        f'{{"name":"{call.function.name}","arguments":{call.function.arguments or "{}"}}}'
        for call in calls
    )


def text_of_result(call_id: str, result: str) -> str:
    """Return what a function gave back, for a user's turn of the history."""
    return f"Result of the call {call_id}:\n{result}"


def _parameters(function: FunctionSpec) -> dict[str, Any]:  # Any: a JSON schema
    return function.parameters or _NO_PARAMETERS


def _with_id(function: FunctionSpec) -> dict[str, Any]:  # Any: a JSON schema
    return {"$id": f"urn:galen:{function.name}", **_parameters(function)}
