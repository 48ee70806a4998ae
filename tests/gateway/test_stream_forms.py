"""Streams of completions and responses as OpenAI's own client reads them, whatever their text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from services.gateway.chunks import ErrorAnswer, ErrorBody, Usage
from services.gateway.completion_answers import TextSseFormatter, usage_by_prompt
from services.gateway.response_answers import empty_response
from services.gateway.response_schemas import read_response_request
from services.gateway.response_stream import ResponseSseFormatter
from services.gateway.tool_stream import ToolSseFormatter
from services.protocol.messages import Finished, Tokens

TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    | st.sampled_from(["\n\n", "\r", "data: [DONE]", "\u2028", "\u2029", "\x85", '"', "\\"]),
    min_size=1,
    max_size=6,
)
FAILURE = ErrorAnswer(ErrorBody("it broke", "server_error", "input", "internal_error"))


def tokens(texts: list[str]) -> Tokens:
    return Tokens("id", 1, 0, list(range(len(texts))), texts)


def read(blob: bytes) -> list[str]:
    return [event.data for event in SSEDecoder().iter_bytes(iter([blob]))]


def response_formatter() -> ResponseSseFormatter:
    asked = read_response_request({"model": "m", "input": "x"})
    return ResponseSseFormatter(empty_response(asked, "resp_1", 0))


@given(texts=TEXTS)
def test_text_of_a_completion_arrives_unchanged(texts: list[str]) -> None:
    form = TextSseFormatter("cmpl-1", "m", 0, include_usage=True)
    blob = form.begin(1) + form.tokens(1, tokens(texts)) + form.finish(1, "stop")
    *chunks, done = read(blob + form.end(Usage(1, 2, 3)))

    assert done == "[DONE]"
    *said, end, usage = [json.loads(chunk) for chunk in chunks]
    assert [chunk["choices"][0]["text"] for chunk in said] == texts
    assert end["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 3)


@given(texts=TEXTS)
def test_text_of_a_response_arrives_unchanged_and_whole(texts: list[str]) -> None:
    form = response_formatter()
    blob = form.begin(0) + form.tokens(0, tokens(texts)) + form.finish(0, "length")
    events: list[Any] = [json.loads(event) for event in read(blob + form.end(Usage(1, 2, 3)))]

    deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
    assert deltas == texts
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["output"][0]["content"][0]["text"] == "".join(texts)


def test_failure_of_a_response_says_our_code_and_then_fails_it() -> None:
    told, failed = [json.loads(event) for event in read(response_formatter().fail(FAILURE))]

    assert (told["type"], told["code"], told["param"]) == ("error", "internal_error", "input")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")


@given(pieces=st.integers(1, 12))
def test_call_in_any_pieces_is_told_once(pieces: int) -> None:
    call = '{"name":"mark","arguments":{"side":"left \u2028"}}'
    size = -(-len(call) // pieces)
    form = ToolSseFormatter("chatcmpl-1", "m", 0, include_usage=False)
    parts = [call[at : at + size] for at in range(0, len(call), size)]
    held = b"".join(form.tokens(0, tokens([part])) for part in parts)
    told, end = [json.loads(event) for event in read(form.finish(0, "stop"))]

    assert held == b""
    (function,) = [c["function"] for c in told["choices"][0]["delta"]["tool_calls"]]
    assert function == {"name": "mark", "arguments": '{"side":"left \u2028"}'}
    assert end["choices"][0]["finish_reason"] == "tool_calls"


def auto_form() -> ToolSseFormatter:
    return ToolSseFormatter("chatcmpl-1", "m", 0, include_usage=False, may_be_text=True)


def test_text_that_might_have_been_a_call_is_told_from_its_first_character_on() -> None:
    form = auto_form()
    events = [form.tokens(0, tokens([text])) for text in (" ", "", "No", " {", "}")]

    assert events[:2] == [b"", b""]
    told = [json.loads(event) for event in read(b"".join(events))]
    assert [t["choices"][0]["delta"]["content"] for t in told] == [" ", "", "No", " {", "}"]
    (end,) = [json.loads(event) for event in read(form.finish(0, "stop"))]
    assert end["choices"][0]["finish_reason"] == "stop"


def test_call_where_a_text_might_have_come_is_told_whole() -> None:
    form = auto_form()
    held = [form.tokens(0, tokens([text])) for text in ('{"name":"a",', '"arguments":{}}')]
    told, end = [json.loads(event) for event in read(form.finish(0, "stop"))]

    assert held == [b"", b""]
    assert told["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "a"
    assert end["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("said", ["", " ", '{"name":"a","argu'])
def test_answer_that_ends_before_it_is_text_or_call_loses_nothing(said: str) -> None:
    form = auto_form()
    form.tokens(0, tokens([said]))
    *told, end = [json.loads(event) for event in read(form.finish(0, "length"))]

    assert "".join(t["choices"][0]["delta"]["content"] for t in told) == said
    assert end["choices"][0]["finish_reason"] == "length"


def test_each_prompt_counts_once_even_if_only_some_choices_have_ended() -> None:
    ends = {
        0: Finished("a", 1, "stop", 10, 3),
        1: Finished("a-1", 1, "stop", 10, 4),
        3: Finished("a-3", 1, "stop", 7, 5),
    }
    assert usage_by_prompt(ends, 2) == Usage(17, 12, 29)
