"""The unmodified OpenAI client on the running platform: conversations, lengths, streams, usage.

What depends on a model runs on the transformers engine with the tiny checkpoint, the rest on the
fake engine, whose answers are known in advance. Choosing tokens: `test_sdk_sampling.py`; errors:
`test_sdk_errors.py`.
"""

import itertools
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.end_to_end.chat import (
    BLUE_NOISE,
    FAKE_IMAGE_TOKENS,
    RED_NOISE,
    numbered,
    read_stream,
    user,
)
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.tiny_model import (
    IMAGE_TOKENS,
    LINE_BREAK_TOKENS,
    QUESTION,
    ask,
    prompt_tokens_of,
    text_of,
)

pytestmark = pytest.mark.e2e


# ----------------------------------------------------------------------------- models and answers


def test_models_are_listed_and_described(fake_client: OpenAI) -> None:
    listed = fake_client.models.list().data
    described = fake_client.models.retrieve(FAKE_MODEL)

    assert [model.id for model in listed] == [FAKE_MODEL]
    assert described == listed[0]
    assert (described.object, described.owned_by) == ("model", "galen")
    assert described.created > 1_700_000_000


async def test_async_client_lists_models_and_gets_both_kinds_of_answers(
    async_fake_client: AsyncOpenAI,
) -> None:
    models = [model.id async for model in async_fake_client.models.list()]
    whole = await async_fake_client.chat.completions.create(
        model=FAKE_MODEL, messages=[{"role": "user", "content": "[[n=5]]"}]
    )
    stream = await async_fake_client.chat.completions.create(
        model=FAKE_MODEL, messages=[{"role": "user", "content": "[[n=5]]"}], stream=True
    )
    streamed = read_stream([chunk async for chunk in stream])

    assert models == [FAKE_MODEL]
    assert whole.choices[0].message.content == streamed.text == numbered(5)


def test_answer_has_openai_s_form(fake_client: OpenAI) -> None:
    answer = fake_client.chat.completions.create(model=FAKE_MODEL, messages=[user("[[n=3]]")])

    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", FAKE_MODEL)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None


def test_every_response_carries_a_request_id_of_its_own(fake_client: OpenAI) -> None:
    completions = fake_client.chat.completions.with_raw_response
    question: dict[str, Any] = {"model": FAKE_MODEL, "messages": [user("[[n=2]]")]}
    responses = [
        completions.create(**question),
        completions.create(**question, stream=True),
        fake_client.models.with_raw_response.list(),
        fake_client.models.with_raw_response.retrieve(FAKE_MODEL),
    ]

    ids = [response.headers["x-request-id"] for response in responses]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    assert responses[0].parse().id == ids[0]


# ------------------------------------------------------------------------------------ conversations


def test_content_as_string_and_as_text_parts_is_the_same_prompt(tiny_client: OpenAI) -> None:
    parts: Any = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}

    assert text_of(tiny_client, parts) == text_of(tiny_client, user(QUESTION))


def test_system_and_developer_messages_are_the_same_and_are_heard(tiny_client: OpenAI) -> None:
    system, developer = (
        {"role": role, "content": "You are a careful assistant."}
        for role in ("system", "developer")
    )

    told = text_of(tiny_client, system, user(QUESTION))
    assert told == text_of(tiny_client, developer, user(QUESTION))
    assert told != text_of(tiny_client, user(QUESTION))


def test_image_changes_the_answer_and_counts_its_tokens_exactly(tiny_client: OpenAI) -> None:
    without = prompt_tokens_of(tiny_client, user(QUESTION))
    one = prompt_tokens_of(tiny_client, user(RED_NOISE, QUESTION))
    two = prompt_tokens_of(tiny_client, user(RED_NOISE, BLUE_NOISE, QUESTION))

    assert one - without == two - one == IMAGE_TOKENS + LINE_BREAK_TOKENS
    red = text_of(tiny_client, user(RED_NOISE, QUESTION))
    assert red != text_of(tiny_client, user(BLUE_NOISE, QUESTION))
    assert red != text_of(tiny_client, user(QUESTION))


def test_images_keep_their_order_within_a_message(tiny_client: OpenAI) -> None:
    red_first = user(RED_NOISE, BLUE_NOISE, QUESTION)
    blue_first = user(BLUE_NOISE, RED_NOISE, QUESTION)

    assert text_of(tiny_client, red_first) == text_of(tiny_client, red_first)
    assert text_of(tiny_client, red_first) != text_of(tiny_client, blue_first)


def test_text_and_images_keep_their_places(tiny_client: OpenAI) -> None:
    before, after = user(RED_NOISE, QUESTION), user(QUESTION, RED_NOISE)

    assert text_of(tiny_client, before) != text_of(tiny_client, after)


def test_image_of_an_earlier_turn_is_seen_and_turns_keep_their_order(tiny_client: OpenAI) -> None:
    reply = {"role": "assistant", "content": "The image shows a small bright lesion."}
    later = user("Which organ is this?")

    red_then_blue = (user(RED_NOISE, QUESTION), reply, user(BLUE_NOISE, "And this?"))
    blue_then_red = (user(BLUE_NOISE, QUESTION), reply, user(RED_NOISE, "And this?"))
    assert text_of(tiny_client, *red_then_blue) != text_of(tiny_client, *blue_then_red)
    seen = text_of(tiny_client, user(RED_NOISE, QUESTION), reply, later)
    assert seen != text_of(tiny_client, user(BLUE_NOISE, QUESTION), reply, later)
    turns = [user(QUESTION), reply, later]
    with_image = [user(RED_NOISE, QUESTION), reply, later]
    more = prompt_tokens_of(tiny_client, *with_image) - prompt_tokens_of(tiny_client, *turns)
    assert more == IMAGE_TOKENS + LINE_BREAK_TOKENS


@pytest.mark.parametrize("literal", ["<image>", "</s>", "<|im_start|>system", "<|image_pad|>"])
def test_special_token_typed_by_a_user_is_text(tiny_client: OpenAI, literal: str) -> None:
    bare = prompt_tokens_of(tiny_client, user("what is this"))
    typed = prompt_tokens_of(tiny_client, user(f"what is {literal} this"))
    assert bare + 1 < typed <= bare + len(literal) + 1  # several tokens, at most one per character
    bare_beside = prompt_tokens_of(tiny_client, user(RED_NOISE, "what is this"))
    typed_beside = prompt_tokens_of(tiny_client, user(RED_NOISE, f"what is {literal} this"))
    assert typed_beside - bare_beside == typed - bare


# --------------------------------------------------------------------------------- length and stops


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7])
def test_length_limit_ends_the_answer(tiny_client: OpenAI, name: str, limit: int) -> None:
    options: dict[str, Any] = {name: limit}
    answer = tiny_client.chat.completions.create(
        model=TINY_MODEL, messages=[user(QUESTION)], temperature=0, **options
    )

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == limit


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        ("zq0003", numbered(3)),
        ("2 zq", "zq0000 zq0001 zq000"),
        (["never", "q0005", "1 z"], "zq0000 zq000"),
        ([" "], "zq0000"),
        (["zq0000 zq0001 zq0002 zq0003 zq0004 zq0005 zq0006!"], numbered(10)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_cut_exactly(
    fake_client: OpenAI, stop: str | list[str], kept: str, stream: bool
) -> None:
    question: dict[str, Any] = {"model": FAKE_MODEL, "messages": [user("[[n=10]]")], "stop": stop}

    if stream:
        choice = read_stream(fake_client.chat.completions.create(**question, stream=True)).choices[
            0
        ]
        assert (choice.text, choice.finish_reasons) == (kept, ["stop"])
    else:
        answer = fake_client.chat.completions.create(**question)
        assert answer.choices[0].message.content == kept
        assert answer.choices[0].finish_reason == "stop"


def test_stop_string_across_a_real_token_border_cuts_exactly(tiny_client: OpenAI) -> None:
    pieces = read_stream(ask(tiny_client, stream=True, max_tokens=48)).choices[0].pieces
    whole = "".join(pieces)
    borders = [
        left[-1] + right[:1]
        for left, right in itertools.pairwise(pieces)
        if left.isascii() and right.isascii() and left and right
    ]
    assert borders

    for stop in borders[:3]:
        answer = ask(tiny_client, stop=stop, max_tokens=48).choices[0]
        assert answer.message.content == whole[: whole.index(stop)]
        assert answer.finish_reason == "stop"


# ------------------------------------------------------------------------------ streams and usage


@pytest.mark.parametrize("options", [{}, {"temperature": 1, "seed": 4}, {"stop": "his"}])
def test_stream_has_one_event_per_token_and_the_text_and_usage_of_the_whole_answer(
    tiny_client: OpenAI, options: dict[str, Any]
) -> None:
    messages = (user(RED_NOISE, QUESTION),)
    whole = ask(tiny_client, *messages, **options)
    streamed = read_stream(
        ask(tiny_client, *messages, stream=True, stream_options={"include_usage": True}, **options)
    )

    choice = streamed.choices[0]
    assert choice.text == whole.choices[0].message.content
    assert choice.finish_reasons == [whole.choices[0].finish_reason]
    assert len(choice.pieces) == whole.usage.completion_tokens
    assert streamed.usages == [whole.usage]
    assert streamed.chunks[-1].usage == whole.usage
    assert streamed.chunks[-1].choices == []
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in streamed.chunks}) == 1


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}])
def test_stream_has_no_usage_unless_it_was_asked_for(
    fake_client: OpenAI, options: dict[str, Any]
) -> None:
    streamed = read_stream(
        fake_client.chat.completions.create(
            model=FAKE_MODEL, messages=[user("[[n=2]]")], stream=True, **options
        )
    )

    assert streamed.usages == []
    assert streamed.chunks[-1].choices[0].finish_reason == "stop"


def test_usage_adds_up(fake_client: OpenAI) -> None:
    usage = fake_client.chat.completions.create(
        model=FAKE_MODEL, messages=[user(RED_NOISE, "three words [[n=6]]")]
    ).usage

    assert usage is not None
    assert usage.prompt_tokens == 3 + FAKE_IMAGE_TOKENS
    assert usage.completion_tokens == 6
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
