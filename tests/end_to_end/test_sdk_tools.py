"""The unmodified OpenAI client's tools on the transformers engine: calls that a schema binds."""

import json
from enum import Enum
from typing import Any

import pytest
from openai import BadRequestError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from modeling.tiny import TOKENIZER_TEXT, train_tokenizer
from tests.end_to_end.chat import user
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.tiny_model import QUESTION

pytestmark = pytest.mark.e2e


def tool(name: str, **properties: Any) -> Any:
    parameters = {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


SIDE = tool("mark_side", side={"enum": ["left", "right"]})
ORGAN = tool("name_organ", organ={"enum": ["liver", "lung"]}, sure={"type": "boolean"})
NAMED: Any = {"type": "function", "function": {"name": "name_organ"}}


def ask(client: OpenAI, **parameters: Any) -> Any:
    asked: Any = {
        "model": TINY_MODEL, "messages": [user(QUESTION)], "tools": [SIDE, ORGAN], **parameters,
    }  # fmt: skip
    return client.chat.completions.create(**asked)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_required_calls_one_of_the_functions(tiny_client: OpenAI, seed: int) -> None:
    (choice,) = ask(tiny_client, tool_choice="required", seed=seed).choices

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    arguments = json.loads(call.function.arguments)
    if call.function.name == "mark_side":
        assert arguments in ({"side": "left"}, {"side": "right"})
    else:
        assert call.function.name == "name_organ"
        assert set(arguments) == {"organ", "sure"}


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


class MarkSide(BaseModel):
    side: Side


class MarkBoth(BaseModel):
    first: Side
    second: Side


def test_functions_of_the_sdk_s_own_helper_have_definitions_that_are_found(
    tiny_client: OpenAI,
) -> None:
    both = [pydantic_function_tool(MarkSide), pydantic_function_tool(MarkBoth)]
    (choice,) = ask(tiny_client, tools=both, tool_choice="required", seed=2).choices
    (call,) = choice.message.tool_calls

    made = {"MarkSide": MarkSide, "MarkBoth": MarkBoth}[call.function.name]
    made.model_validate_json(call.function.arguments)


def test_named_function_is_the_one_that_is_called_in_every_choice(tiny_client: OpenAI) -> None:
    answer = ask(tiny_client, tool_choice=NAMED, n=3, seed=5)

    calls = [choice.message.tool_calls[0] for choice in answer.choices]
    assert {call.function.name for call in calls} == {"name_organ"}
    assert len({call.id for call in calls}) == 3


def test_streamed_call_is_the_whole_one(tiny_client: OpenAI) -> None:
    whole = ask(tiny_client, tool_choice="required", seed=7).choices[0].message.tool_calls[0]
    chunks = list(ask(tiny_client, tool_choice="required", seed=7, stream=True))

    told = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    ((call,),) = told
    assert (call.index, call.type) == (0, "function")
    assert call.function == whole.function.model_copy() or (
        (call.function.name, call.function.arguments)
        == (whole.function.name, whole.function.arguments)
    )
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_call_that_the_length_cuts_is_told_as_text(tiny_client: OpenAI, stream: bool) -> None:
    answer = ask(tiny_client, tool_choice=NAMED, max_tokens=3, stream=stream)
    if stream:
        chunks = list(answer)
        said = "".join(c.choices[0].delta.content or "" for c in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        said, reason = answer.choices[0].message.content, answer.choices[0].finish_reason

    assert '{"name":"name_organ"'.startswith(said)
    assert reason == "length"


@pytest.fixture(scope="module")
def brace() -> str:
    """The id of the token that every call begins with."""
    return str(train_tokenizer(TOKENIZER_TEXT, vocab_size=512).convert_tokens_to_ids("{"))


@pytest.mark.parametrize("more", [{}, {"tool_choice": "auto"}])
@pytest.mark.parametrize("stream", [False, True])
def test_auto_lets_the_model_call(
    tiny_client: OpenAI, brace: str, more: dict[str, Any], stream: bool
) -> None:
    answer = ask(tiny_client, stream=stream, logit_bias={brace: 100}, seed=3, **more)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        ((call,),) = [c.delta.tool_calls for c in chunks if c.delta.tool_calls]
        assert not any(c.delta.content for c in chunks)
        assert (call.index, call.type, chunks[-1].finish_reason) == (0, "function", "tool_calls")
    else:
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls

    assert call.id.startswith("call_")
    assert set(json.loads(call.function.arguments)) in ({"side"}, {"organ", "sure"})


def test_auto_lets_the_model_answer_with_a_text_that_is_told_token_by_token(
    tiny_client: OpenAI, brace: str
) -> None:
    asked: Any = {"logit_bias": {brace: -100}, "temperature": 0, "max_tokens": 12}
    (whole,) = ask(tiny_client, **asked).choices
    chunks = [chunk.choices[0] for chunk in ask(tiny_client, stream=True, **asked)]
    told = [c.delta.content for c in chunks if c.delta.content]

    assert whole.message.tool_calls is None
    assert whole.finish_reason == chunks[-1].finish_reason in ("stop", "length")
    assert whole.message.content == "".join(told)
    assert len(told) > 2
    assert not any(c.delta.tool_calls for c in chunks)


def test_history_with_a_call_and_its_result_is_heard(tiny_client: OpenAI) -> None:
    first = ask(tiny_client, tool_choice="required", seed=1).choices[0].message
    called = first.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "the left one"}
    more: Any = {"max_tokens": 8, "temperature": 0, "tool_choice": "none"}

    with_result = ask(tiny_client, messages=[user(QUESTION), called, result], **more)
    without = ask(tiny_client, messages=[user(QUESTION)], **more)

    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens
    assert with_result.choices[0].finish_reason in ("stop", "length")
    assert with_result.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"tool_choice": "auto", "response_format": {"type": "json_object"}},
         "invalid_value", "response_format"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "invalid_value",
         "tool_choice"),
        ({"tools": [SIDE, SIDE], "tool_choice": "required"}, "invalid_value", "tools"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}},
         "invalid_value", "response_format"),
        ({"tool_choice": "required", "tools": [tool("a", x={"$ref": "http://127.0.0.1/schema"})]},
         "invalid_value", "tools"),
        ({"tool_choice": "required", "tools": [tool("a", x={"title": "x" * (64 << 10)})]},
         "invalid_value", "tools"),
        ({"tool_choice": "required", "parallel_tool_calls": True}, "unsupported_parameter",
         "parallel_tool_calls"),
    ],
)  # fmt: skip
def test_refusals_name_the_parameter(
    tiny_client: OpenAI, parameters: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(tiny_client, **parameters)

    assert (caught.value.code, caught.value.param) == (code, param)


def test_one_call_at_most_may_be_said(tiny_client: OpenAI) -> None:
    answer = ask(tiny_client, tool_choice="none", parallel_tool_calls=False, max_tokens=4)

    assert answer.choices[0].message.tool_calls is None


def test_engine_without_schemas_takes_no_tools(fake_client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(fake_client, model=FAKE_MODEL, tool_choice="required")

    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param in ("tools", "tool_choice")
