"""The unmodified OpenAI client's functions in `responses`, on the transformers engine."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response, ResponseFunctionToolCall

from tests.end_to_end.conftest import TINY_MODEL
from tests.end_to_end.tiny_model import QUESTION

pytestmark = pytest.mark.e2e

CALL_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]


def tool(name: str, **properties: Any) -> Any:
    parameters = {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip
    return {"type": "function", "name": name, "parameters": parameters, "strict": True}


SIDE = tool("mark_side", side={"enum": ["left", "right"]})
ORGAN = tool("name_organ", organ={"enum": ["liver", "lung"]})


def asked(**parameters: Any) -> Any:
    return {"model": TINY_MODEL, "input": QUESTION, "tools": [SIDE, ORGAN], **parameters}


def call_in(answer: Response) -> ResponseFunctionToolCall:
    (item,) = answer.output
    assert isinstance(item, ResponseFunctionToolCall)
    return item


def test_required_function_is_called(tiny_client: OpenAI) -> None:
    answer = tiny_client.responses.create(
        **asked(tool_choice={"type": "function", "name": "mark_side"})
    )
    call = call_in(answer)

    assert (answer.status, call.status, call.name) == ("completed", "completed", "mark_side")
    assert json.loads(call.arguments) in ({"side": "left"}, {"side": "right"})
    assert call.id != call.call_id
    assert [t.name for t in answer.tools if t.type == "function"] == ["mark_side", "name_organ"]


def test_stream_of_a_call_has_the_official_events_and_the_helper_reads_them(
    tiny_client: OpenAI,
) -> None:
    with tiny_client.responses.stream(**asked(tool_choice="required")) as stream:
        events: list[Any] = list(stream)
        call = call_in(stream.get_final_response())

    assert [event.type for event in events] == CALL_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    added, delta, done, item_done = events[2:6]
    assert (added.item.name, added.item.arguments) == (call.name, "")
    assert delta.delta == done.arguments == item_done.item.arguments == call.arguments
    assert {added.item.id, delta.item_id, done.item_id, item_done.item.id} == {call.id}


def test_auto_is_the_default_and_may_be_a_text(tiny_client: OpenAI) -> None:
    kinds = set[str]()
    for temperature in (0.0, 2.0, 2.0, 2.0):
        body = asked(temperature=temperature, max_output_tokens=200)
        answer: Any = tiny_client.responses.create(**body)
        assert answer.tool_choice == "auto"
        (item,) = answer.output
        kinds.add(item.type)
        if item.type == "message":
            assert item.content[0].text.lstrip()[:1] != "{" or answer.status == "incomplete"
    assert kinds <= {"message", "function_call"}
    assert "message" in kinds


def test_text_under_auto_is_streamed_by_its_tokens(tiny_client: OpenAI) -> None:
    body = asked(temperature=0, max_output_tokens=8)
    whole: Any = tiny_client.responses.create(**body)
    events: list[Any] = list(tiny_client.responses.create(**body, stream=True))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]

    assert [e.type for e in events][:4] == [*CALL_EVENTS[:3], "response.content_part.added"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 2


def test_conversation_goes_on_with_a_call_and_its_result(tiny_client: OpenAI) -> None:
    first = tiny_client.responses.create(**asked(tool_choice="required"))
    call = call_in(first)
    history: Any = [
        {"role": "user", "content": QUESTION},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "the left one"},
    ]
    more: Any = {"tool_choice": "none", "temperature": 0, "max_output_tokens": 4}
    with_result = tiny_client.responses.create(**asked(input=history, **more))
    without = tiny_client.responses.create(**asked(**more))

    assert with_result.usage is not None
    assert without.usage is not None
    assert with_result.usage.input_tokens > without.usage.input_tokens
    assert with_result.output[0].type == "message"


@pytest.mark.parametrize("stream", [False, True])
def test_call_that_the_length_cuts_is_told_as_text(tiny_client: OpenAI, stream: bool) -> None:
    body = asked(tool_choice="required", max_output_tokens=3)
    answer: Any = tiny_client.responses.create(**body, stream=stream)
    if stream:
        answer = list(answer)[-1].response

    assert answer.status == "incomplete"
    assert answer.output_text.startswith("{")


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"tools": [SIDE, SIDE]}, "invalid_value", "tools"),
        ({"tool_choice": {"type": "function", "name": "other"}}, "invalid_value", "tool_choice"),
        ({"tools": [tool("a", x={"$ref": "http://127.0.0.1/schema"})]}, "invalid_value", "tools"),
    ],
)
def test_refusals_name_the_parameter(
    tiny_client: OpenAI, parameters: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        tiny_client.responses.create(**asked(**parameters))

    assert (caught.value.code, caught.value.param) == (code, param)
