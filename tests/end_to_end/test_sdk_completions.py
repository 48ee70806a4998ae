"""The unmodified OpenAI client's `completions` on the running platform: texts to be continued."""

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from tests.end_to_end.chat import numbered, user
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.tiny_model import QUESTION

pytestmark = pytest.mark.e2e


def refusal_of(client: OpenAI, **parameters: Any) -> tuple[int, str | None, str | None]:
    body = {"model": FAKE_MODEL, "prompt": "[[n=1]]", **parameters}
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(**body)
    return caught.value.status_code, caught.value.code, caught.value.param


def test_whole_answer_has_openai_s_form(fake_client: OpenAI) -> None:
    answer = fake_client.completions.create(model=FAKE_MODEL, prompt="say [[n=3]]")

    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", FAKE_MODEL)
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, numbered(3), "stop")
    assert choice.logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)


async def test_stream_has_the_text_and_the_usage_of_the_whole(
    async_fake_client: AsyncOpenAI,
) -> None:
    stream = await async_fake_client.completions.create(
        model=FAKE_MODEL, prompt="[[n=4]]", stream=True, stream_options={"include_usage": True}
    )
    *chunks, end, usage = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == numbered(4)
    assert len(chunks) == 4
    assert end.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 4


def test_several_prompts_are_answered_each_with_its_choices(fake_client: OpenAI) -> None:
    answer = fake_client.completions.create(
        model=FAKE_MODEL, prompt=["a [[n=1]]", "a b [[n=2]]"], n=2
    )

    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert [c.text for c in answer.choices] == [numbered(1)] * 2 + [numbered(2)] * 2
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)


def test_length_is_sixteen_tokens_unless_it_is_said(fake_client: OpenAI) -> None:
    answer = fake_client.completions.create(model=FAKE_MODEL, prompt="[[n=50]]")

    assert answer.choices[0].text == numbered(16)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_the_legacy_form(fake_client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": FAKE_MODEL, "prompt": "[[n=3]]", "logprobs": 2, "stream": stream}
    answer: Any = fake_client.completions.create(**asked)
    choices = [c.choices[0] for c in answer] if stream else answer.choices
    found = [choice.logprobs for choice in choices if choice.logprobs is not None]

    tokens = [token for entry in found for token in entry.tokens]
    assert tokens == [f"zq{i:04d} " for i in range(3)]
    assert [offset for entry in found for offset in entry.text_offset] == [0, 7, 14]
    assert len([logprob for entry in found for logprob in entry.token_logprobs]) == 3
    assert [len(top) for entry in found for top in entry.top_logprobs or ()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"prompt": [1, 2, 3]}, "unsupported_parameter", "prompt"),
        ({"prompt": [[1, 2], [3]]}, "unsupported_parameter", "prompt"),
        ({"echo": True}, "unsupported_parameter", "echo"),
        ({"suffix": "x"}, "unsupported_parameter", "suffix"),
        ({"best_of": 2}, "unsupported_parameter", "best_of"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": ["x"] * 9}, "invalid_value", "prompt"),
        ({"prompt": ["x"] * 3, "n": 3}, "invalid_value", "n"),
        ({"logprobs": 21}, "invalid_value", "logprobs"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "invalid_value", "logit_bias[...]"),
        ({"logit_bias": {"99999": 1}}, "invalid_value", "logit_bias"),
        ({"max_tokens": 40_000}, "context_length_exceeded", "prompt"),
    ],
)
def test_refusals_name_the_parameter(
    fake_client: OpenAI, parameters: dict[str, Any], code: str, param: str
) -> None:
    assert refusal_of(fake_client, **parameters) == (400, code, param)


def test_reason_of_a_refusal_is_told(fake_client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="no model here fills a gap"):
        fake_client.completions.create(model=FAKE_MODEL, prompt="x", suffix="y")


def test_real_model_continues_the_bare_text(tiny_client: OpenAI) -> None:
    asked: Any = {"model": TINY_MODEL, "temperature": 0, "max_tokens": 12}
    bare = tiny_client.completions.create(prompt=QUESTION, **asked)
    again = tiny_client.completions.create(prompt=QUESTION, **asked)
    chat = tiny_client.chat.completions.create(messages=[user(QUESTION)], **asked)

    assert bare.choices[0].text == again.choices[0].text
    assert bare.choices[0].text != chat.choices[0].message.content
    assert bare.usage is not None
    assert chat.usage is not None
    assert 0 < bare.usage.prompt_tokens < chat.usage.prompt_tokens


def test_bias_forbids_a_token_of_a_real_model(tiny_client: OpenAI) -> None:
    asked: Any = {"model": TINY_MODEL, "temperature": 0, "max_tokens": 4, "prompt": QUESTION}
    plain = tiny_client.completions.create(**asked, logprobs=0)
    biased = tiny_client.completions.create(**asked, logit_bias={str(i): -100 for i in range(200)})

    assert plain.choices[0].logprobs is not None
    assert biased.choices[0].text != plain.choices[0].text
