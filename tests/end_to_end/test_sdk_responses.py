"""The unmodified OpenAI client's `responses` on the running platform: whole and as events."""

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.end_to_end.chat import FAKE_IMAGE_TOKENS, RED_NOISE, numbered, user
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.tiny_model import QUESTION
from tests.gateway.media.image_files import data_url

pytestmark = pytest.mark.e2e

ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
CITY = {
    "type": "object",
    "properties": {"organ": {"enum": ["liver", "lung"]}},
    "required": ["organ"],
    "additionalProperties": False,
}


def picture() -> Any:
    return {"type": "input_image", "image_url": data_url(RED_NOISE), "detail": "auto"}


def text(value: str) -> Any:
    return {"type": "input_text", "text": value}


def test_whole_answer_has_openai_s_form(fake_client: OpenAI) -> None:
    answer = fake_client.responses.create(
        model=FAKE_MODEL, input="say [[n=3]]", metadata={"study": "7"}, store=False
    )

    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.model) == ("response", "completed", FAKE_MODEL)
    assert answer.output_text == numbered(3)
    assert answer.metadata == {"study": "7"}
    assert (answer.error, answer.incomplete_details) == (None, None)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 3)
    assert answer.usage.total_tokens == 5
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


def test_image_instructions_and_history_are_heard(fake_client: OpenAI) -> None:
    first = fake_client.responses.create(model=FAKE_MODEL, input="one two [[n=2]]")
    history: Any = [
        {"role": "user", "content": [picture(), text("one two")]},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "message", "role": "user", "content": "three [[n=1]]"},
    ]
    answer = fake_client.responses.create(
        model=FAKE_MODEL, input=history, instructions="be brief now"
    )

    assert answer.output_text == numbered(1)
    assert answer.usage is not None
    assert answer.usage.input_tokens == FAKE_IMAGE_TOKENS + 2 + 2 + 2 + 3


def test_same_image_and_question_as_in_a_chat_completion(tiny_client: OpenAI) -> None:
    chat = tiny_client.chat.completions.create(
        model=TINY_MODEL, messages=[user(RED_NOISE, QUESTION)], temperature=0, max_tokens=12
    )
    content: Any = [picture(), text(QUESTION)]
    answer = tiny_client.responses.create(
        model=TINY_MODEL, input=[{"role": "user", "content": content}], temperature=0,
        max_output_tokens=12,
    )  # fmt: skip

    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage is not None
    assert chat.usage is not None
    assert answer.usage.input_tokens == chat.usage.prompt_tokens


def test_stream_has_the_official_events_in_their_order(fake_client: OpenAI) -> None:
    stream = fake_client.responses.create(model=FAKE_MODEL, input="[[n=3]]", stream=True)
    events: list[Any] = list(stream)

    kinds = [event.type for event in events]
    assert kinds == [*ORDER[:4], *[ORDER[4]] * 3, *ORDER[5:], "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == ORDER[4]) == numbered(3)
    whole = events[-1].response
    assert whole.output_text == numbered(3) == events[7].text
    assert whole.usage.output_tokens == 3
    assert whole.id == events[0].response.id
    assert {e.item_id for e in events if hasattr(e, "item_id")} == {whole.output[0].id}


async def test_async_helper_accumulates_the_stream(async_fake_client: AsyncOpenAI) -> None:
    async with async_fake_client.responses.stream(model=FAKE_MODEL, input="[[n=4]]") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert kinds[-1] == "response.completed"
    assert final.output_text == numbered(4)


@pytest.mark.parametrize("stream", [False, True])
def test_length_makes_an_incomplete_response(fake_client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": FAKE_MODEL, "input": "[[n=9]]", "max_output_tokens": 2}
    answer: Any = fake_client.responses.create(**asked, stream=stream)
    if stream:
        *_, last = answer
        assert last.type == "response.incomplete"
        answer = last.response

    assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == numbered(2)


def test_failure_within_a_stream_is_an_error_and_a_failed_response(fake_client: OpenAI) -> None:
    stream = fake_client.responses.create(
        model=FAKE_MODEL, input="[[n=5 d=20 fail=2]]", stream=True
    )
    events: list[Any] = list(stream)

    assert [event.type for event in events][-2:] == ["error", "response.failed"]
    assert events[-2].code == "internal_error"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_come_with_the_text(fake_client: OpenAI, stream: bool) -> None:
    asked: Any = {
        "model": FAKE_MODEL, "input": "[[n=2]]", "top_logprobs": 1,
        "include": ["message.output_text.logprobs"],
    }  # fmt: skip
    answer: Any = fake_client.responses.create(**asked, stream=stream)
    if stream:
        answer = list(answer)[-1].response
    entries = answer.output[0].content[0].logprobs

    assert [entry.token for entry in entries] == ["zq0000 ", "zq0001 "]
    assert [len(entry.top_logprobs) for entry in entries] == [1, 1]


def test_json_schema_binds_a_real_model(tiny_client: OpenAI) -> None:
    answer = tiny_client.responses.create(
        model=TINY_MODEL, input=QUESTION,
        text={"format": {"type": "json_schema", "name": "finding", "schema": CITY}},
    )  # fmt: skip

    assert answer.output_text in ('{"organ":"liver"}', '{"organ":"lung"}')


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"store": True}, "unsupported_parameter", "store"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"reasoning": {"effort": "low"}}, "unsupported_parameter", "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools[0].type"),
        ({"tools": [{"type": "function", "name": "mark", "parameters": {}}]},
         "unsupported_parameter", "tools"),
        ({"parallel_tool_calls": True}, "unsupported_parameter", "parallel_tool_calls"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 40_000}, "context_length_exceeded", "input"),
        ({"text": {"format": {"type": "json_object"}}}, "unsupported_parameter", "text.format"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [{"role": "doctor", "content": "x"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"type": "reasoning"}]}, "invalid_value", "input[0].type"),
        ({"input": [{"role": "system", "content": [picture()]}]}, "invalid_value",
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "a.png"}]}]},
         "invalid_image", "input[0].content[0].file_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "missing_required_parameter", "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "https://example.org/a.png"}]}]},
         "url_fetch_disabled", "input[0].content[0].image_url"),
    ],
)  # fmt: skip
def test_refusals_name_the_parameter(
    fake_client: OpenAI, parameters: dict[str, Any], code: str, param: str
) -> None:
    body: Any = {"model": FAKE_MODEL, "input": "[[n=1]]", **parameters}
    with pytest.raises(BadRequestError) as caught:
        fake_client.responses.create(**body)

    assert (caught.value.status_code, caught.value.code) == (400, code)
    assert caught.value.param == param


def test_embeddings_are_refused_with_the_reason(fake_client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="makes no embeddings") as caught:
        fake_client.embeddings.create(model=FAKE_MODEL, input="x")

    assert (caught.value.code, caught.value.param) == ("unsupported_operation", "model")
