from typing import Any

import pytest

from services.gateway.openai_schemas import (
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_NAME_LENGTH,
    MAX_SCHEMA_BYTES,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TEXT_LENGTH,
    MAX_TOKENS,
    ChatCompletionRequest,
    read_chat_request,
)
from services.protocol.errors import ErrorCode, RequestError

HELLO = {"role": "user", "content": "hello"}


def read(**parameters: Any) -> ChatCompletionRequest:
    return read_chat_request({"model": "m", "messages": [HELLO], **parameters})


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    named = {"name": "finding", "schema": schema, **more}
    return {"type": "json_schema", "json_schema": named}


def refusal_of(**parameters: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(**parameters)
    return caught.value


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("max_tokens", [1, MAX_TOKENS], [0, MAX_TOKENS + 1]),
        ("max_completion_tokens", [1, MAX_TOKENS], [0, MAX_TOKENS + 1]),
        ("temperature", [0, 0.0, 2, 2.0], [-1e-9, 2.000001]),
        ("top_p", [1e-9, 1, 1.0], [0, 0.0, 1.000001]),
        ("top_k", [-1, 1, 1_000_000], [-2, 0, 1_000_001]),
        ("n", [1, MAX_CHOICES], [0, MAX_CHOICES + 1]),
        ("seed", [-(2**63), 0, 2**63 - 1], [-(2**63) - 1, 2**63]),
        ("presence_penalty", [-2, 2], [-2.001, 2.001]),
        ("frequency_penalty", [-2, 2], [-2.001, 2.001]),
        ("repetition_penalty", [1e-9, 10], [0, -1, 10.001]),
        ("stop", ["x", "x" * MAX_STOP_LENGTH, ["x"], ["x"] * MAX_STOPS],
         ["", "x" * (MAX_STOP_LENGTH + 1), [], ["x"] * (MAX_STOPS + 1)]),
        ("messages", [[HELLO] * MAX_MESSAGES], [[], [HELLO] * (MAX_MESSAGES + 1)]),
        ("model", ["m", "m" * MAX_NAME_LENGTH], [""]),
        ("user", ["", "u" * 512], []),
        ("min_tokens", [0, MAX_TOKENS], [-1, MAX_TOKENS + 1]),
        ("response_format", [{"type": "text"}, {"type": "json_object"}, json_schema({})],
         ["json", 5]),
    ],
)  # fmt: skip
def test_each_bound_is_closed_on_both_sides(
    name: str, inside: list[object], outside: list[object]
) -> None:
    for value in inside:
        assert getattr(read(**{name: value}), name) is not None
    for value in outside:
        refusal = refusal_of(**{name: value})
        assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, name)
        assert name in refusal.message


@pytest.mark.parametrize(("value", "is_good"), [(0, True), (20, True), (-1, False), (21, False)])
def test_bounds_of_top_logprobs(value: int, is_good: bool) -> None:
    if is_good:
        assert read(logprobs=True, top_logprobs=value).top_logprobs == value
    else:
        assert refusal_of(logprobs=True, top_logprobs=value).param == "top_logprobs"


@pytest.mark.parametrize(
    "name", sorted(set(ChatCompletionRequest.__struct_fields__) - {"model", "messages"})
)
def test_null_means_the_default_and_another_type_is_refused(name: str) -> None:
    assert getattr(read(**{name: None}), name) is None

    refusal = refusal_of(**{name: {"a": [1]}})
    codes = {"INVALID_VALUE", "UNSUPPORTED_PARAMETER", "MISSING_PARAMETER"}
    assert refusal.code in {ErrorCode[code] for code in codes}
    assert (refusal.param or "").startswith(name)


@pytest.mark.parametrize("name", ["n", "max_tokens", "seed", "top_k"])
def test_numbers_are_not_guessed_from_other_types(name: str) -> None:
    for value in ("1", True, 1.5, [1]):
        assert refusal_of(**{name: value}).param == name


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"top_logprobs": 1, "logprobs": False}, "top_logprobs"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream_options": {}, "stream": False}, "stream_options"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"min_tokens": 6, "max_completion_tokens": 5}, "min_tokens"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    parameters: dict[str, Any], param: str
) -> None:
    refusal = refusal_of(**parameters)

    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, param)


def test_a_schema_may_have_64_kib() -> None:
    frame = len('{"title":""}')
    largest = {"title": "x" * (MAX_SCHEMA_BYTES - frame)}
    assert read(response_format=json_schema(largest, strict=True, description="d"))

    refusal = refusal_of(response_format=json_schema({"title": largest["title"] + "x"}))
    assert (refusal.code, refusal.param) == (ErrorCode.INVALID_VALUE, "response_format")
    assert str(MAX_SCHEMA_BYTES) in refusal.message


@pytest.mark.parametrize("schema", [True, [], "object", None])
def test_a_schema_is_an_object(schema: Any) -> None:
    refusal = refusal_of(response_format=json_schema(schema))
    assert refusal.code is ErrorCode.INVALID_VALUE
    assert refusal.param == "response_format.json_schema.schema"


def test_long_text_is_refused_by_its_own_code() -> None:
    too_long = "x" * (MAX_TEXT_LENGTH + 1)
    parts = [{"type": "text", "text": too_long}]

    assert read(messages=[{"role": "user", "content": too_long[1:]}])
    assert refusal_of(model="m" * (MAX_NAME_LENGTH + 1)).code is ErrorCode.STRING_TOO_LONG
    assert refusal_of(user="u" * 513).code is ErrorCode.STRING_TOO_LONG
    for content in (too_long, parts):
        refusal = refusal_of(messages=[{"role": "user", "content": content}])
        assert refusal.code is ErrorCode.STRING_TOO_LONG
        assert len(refusal.message) < 200


@pytest.mark.parametrize(
    ("place", "value", "param"),
    [
        ("best_of", 1, "best_of"),
        ("", 1, ""),
        ("a.b", 1, "a.b"),
        ("x` - at `$.model", 1, "model.x"),
        ("stream_options", {"include": True}, "stream_options.include"),
        ("messages", [HELLO, {**HELLO, "name": "x"}], "messages[1].name"),
    ],
)
def test_unknown_field_is_named_with_its_place(place: str, value: object, param: str) -> None:
    refusal = refusal_of(stream=True, **{place: value})

    assert refusal.code is ErrorCode.UNSUPPORTED_PARAMETER
    assert (refusal.param or "").startswith(param)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role"),
        ({"model": "m", "messages": [HELLO, {"role": "user"}]}, "messages[1].content"),
        (
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url",
        ),
    ],
)
def test_missing_field_is_named_with_its_place(value: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat_request(value)

    assert (caught.value.code, caught.value.param) == (ErrorCode.MISSING_PARAMETER, param)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_users_show_images(role: str) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}

    assert read(messages=[{"role": "user", "content": [part]}])
    refusal = refusal_of(messages=[{"role": role, "content": [part]}])
    assert refusal.param == "messages[0].content[0].type"


def test_very_long_names_are_cut_in_the_answer() -> None:
    refusal = refusal_of(**{"k" * 100_000: 1})

    assert len(refusal.param or "") <= 200
    assert len(refusal.message) <= 400


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 9}, "n must be an integer of at most 8"),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"n": "2"}, "n must be an integer or null, not a string"),
        ({"top_p": 0}, "top_p must be a number above 0.0"),
        ({"stop": []}, "stop must have at least 1 entries"),
        ({"stop": 5}, "stop must be a string or an array or null, not an integer"),
        ({"user": "u" * 513}, "user must have at most 512 characters"),
        ({"stream": "yes"}, "stream must be a boolean or null, not a string"),
        ({"model": None}, "model must be a string, not null"),
        ({"messages": [5]}, "messages[0] must be an object, not an integer"),
        ({"messages": [{**HELLO, "role": None}]}, "messages[0].role must be a string, not null"),
    ],
)
def test_refusals_are_plain_sentences(parameters: dict[str, Any], message: str) -> None:
    assert refusal_of(**parameters).message == message


def test_body_that_is_no_object_is_called_the_body() -> None:
    with pytest.raises(RequestError, match=r"^the body must be an object, not an array$"):
        read_chat_request([])
