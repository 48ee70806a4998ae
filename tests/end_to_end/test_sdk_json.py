"""The unmodified OpenAI client: answers that obey a schema, on a real model."""

import json
import time
from typing import Annotated, Any, Literal

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, Field

from tests.end_to_end.chat import read_stream, user
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.tiny_model import QUESTION, ask, text_of

pytestmark = pytest.mark.e2e


class Finding(BaseModel):
    """Bounded everywhere: a random model may never close a free string."""

    side: Literal["left", "right"]
    is_clear: bool
    count: Annotated[int, Field(ge=0, le=99)]


FINDING = {
    "type": "json_schema",
    "json_schema": {"name": "finding", "schema": Finding.model_json_schema(), "strict": True},
}


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}])
def test_an_answer_obeys_its_schema_streamed_and_whole(
    tiny_client: OpenAI, sampling: dict[str, Any]
) -> None:
    options = {"response_format": FINDING, "max_tokens": 100, **sampling}
    whole = ask(tiny_client, **options).choices[0]
    streamed = read_stream(ask(tiny_client, stream=True, **options)).choices[0]

    Finding.model_validate_json(whole.message.content)
    assert whole.finish_reason == "stop"
    assert streamed.text == whole.message.content


def test_parse_gives_an_object_of_the_clients_class(tiny_client: OpenAI) -> None:
    question: dict[str, Any] = {
        "model": TINY_MODEL,
        "messages": [user(QUESTION)],
        "max_tokens": 100,
        "temperature": 0,
        "response_format": Finding,
    }
    parsed = tiny_client.chat.completions.parse(**question).choices[0].message.parsed
    with tiny_client.chat.completions.stream(**question) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed

    assert isinstance(parsed, Finding)
    assert streamed == parsed


def test_a_json_object_begins_as_one(tiny_client: OpenAI) -> None:
    text = text_of(tiny_client, response_format={"type": "json_object"}, max_tokens=20)

    assert text.startswith("{")


def test_plain_text_is_the_default(tiny_client: OpenAI) -> None:
    assert text_of(tiny_client, response_format={"type": "text"}) == text_of(tiny_client)


def test_max_tokens_cuts_json(tiny_client: OpenAI) -> None:
    choice = ask(tiny_client, response_format=FINDING, max_tokens=4).choices[0]

    assert choice.finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice.message.content)


def nested_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "code", "param"),
    [
        ({"type": "array", "uniqueItems": True}, "invalid_value", "response_format"),
        ({"$ref": "http://127.0.0.1/schema"}, "invalid_value", "response_format"),
        ({"$ref": "file:///etc/passwd"}, "invalid_value", "response_format"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "invalid_value",
            "response_format",
        ),
        ({"$ref": "#"}, "invalid_value", "response_format"),
        (nested_schema(100), "too_deep", None),
    ],
)
def test_61_a_schema_that_no_grammar_can_follow_is_refused(
    tiny_client: OpenAI, schema: dict[str, Any], code: str, param: str | None
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with pytest.raises(BadRequestError) as caught:
        ask(tiny_client, response_format=form)

    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"


def test_62_a_pattern_that_others_choke_on_is_harmless(tiny_client: OpenAI) -> None:
    schema = {"type": "string", "pattern": "(a+)+$"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    began = time.monotonic()

    choice = ask(tiny_client, response_format=form, max_tokens=12).choices[0]

    assert choice.finish_reason in {"stop", "length"}
    assert time.monotonic() - began < 10  # a second where the machine is not shared


def test_a_schema_that_no_grammar_can_follow_is_told_why(tiny_client: OpenAI) -> None:
    schema = {"name": "n", "schema": {"type": "array", "uniqueItems": True}}
    with pytest.raises(BadRequestError) as caught:
        ask(tiny_client, response_format={"type": "json_schema", "json_schema": schema})

    assert "uniqueItems" in caught.value.message


@pytest.mark.parametrize(
    "parameters", [{"response_format": {"type": "json_object"}}, {"min_tokens": 1}]
)
def test_the_fake_engine_says_that_it_cannot(
    fake_client: OpenAI, parameters: dict[str, Any]
) -> None:
    with pytest.raises(BadRequestError) as caught:
        fake_client.chat.completions.create(
            model=FAKE_MODEL, messages=[user("hi")], extra_body=parameters
        )

    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == next(iter(parameters))


def test_min_tokens_outlasts_a_stop_string(tiny_client: OpenAI) -> None:
    stop = text_of(tiny_client)[4:6]
    short = ask(tiny_client, stop=stop)
    longer = ask(tiny_client, stop=stop, extra_body={"min_tokens": 20})

    assert short.usage.completion_tokens < 20 <= longer.usage.completion_tokens
