from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.openai_schemas import ChatCompletionRequest, images_in, read_chat_request
from services.gateway.translate import (
    CompletionBuilder,
    Origin,
    Target,
    generation_requests,
    usage_of,
)
from services.protocol.messages import (
    Finished,
    GenerationRequest,
    ImagePart,
    ImageRef,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Tokens,
)

ORIGIN = Origin("chatcmpl-1", "gateway-1", "tenant-1", "interactive")


def chat(*messages: dict[str, Any], **parameters: Any) -> ChatCompletionRequest:
    messages = messages or ({"role": "user", "content": "hello"},)
    return read_chat_request({"model": "m", "messages": list(messages), **parameters})


def requests_of(*messages: dict[str, Any], **parameters: Any) -> list[GenerationRequest]:
    request = chat(*messages, **parameters)
    refs = [ImageRef(image.url, 1, 1) for image, _ in images_in(request.messages)]
    return generation_requests(request, refs, ORIGIN, Target(request.model))


def image(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


CONVERSATION = (
    {"role": "developer", "content": "be brief"},
    {"role": "user", "content": [image("a"), text("and"), image("b"), text("differ?")]},
    {"role": "assistant", "content": [text("yes"), text("!")]},
    {"role": "user", "content": [text("this?"), image("c"), image("a")]},
)


def test_images_are_found_in_the_order_of_the_conversation_with_their_places() -> None:
    assert [(image.url, path) for image, path in images_in(chat(*CONVERSATION).messages)] == [
        ("a", "messages[1].content[0].image_url.url"),
        ("b", "messages[1].content[2].image_url.url"),
        ("c", "messages[3].content[1].image_url.url"),
        ("a", "messages[3].content[2].image_url.url"),
    ]


def test_parts_and_images_keep_their_order_and_developer_is_system() -> None:
    (request,) = requests_of(*CONVERSATION)

    seen = [
        (m.role, [p.text if isinstance(p, TextPart) else p.image.sha256.upper() for p in m.parts])
        for m in request.messages
    ]
    assert seen == [
        ("system", ["be brief"]),
        ("user", ["A", "and", "B", "differ?"]),
        ("assistant", ["yes", "!"]),
        ("user", ["this?", "C", "A"]),
    ]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=5))
def test_each_image_gets_its_own_reference(turns: list[list[bool]]) -> None:
    names = (f"image-{i}" for i in range(99))
    messages = [
        {"role": "user", "content": [image(next(names)) if shown else text("x") for shown in turn]}
        for turn in turns
    ]

    (request,) = requests_of(*messages)

    parts = [part for message in request.messages for part in message.parts]
    assert [isinstance(part, ImagePart) for part in parts] == [s for turn in turns for s in turn]
    refs = [part.image.sha256 for part in parts if isinstance(part, ImagePart)]
    assert refs == [f"image-{i}" for i in range(len(refs))]


def test_parameters_arrive_and_absent_ones_have_openai_s_defaults() -> None:
    (default,) = requests_of(seed=5)
    (set_,) = requests_of(
        max_completion_tokens=7, temperature=0, top_p=0.5, top_k=3, stop="x", seed=-5,
        presence_penalty=1, frequency_penalty=-1, repetition_penalty=2, logprobs=True,
        top_logprobs=4, stream=True,
    )  # fmt: skip

    assert default.sampling == SamplingParams(seed=5)
    assert default.stream is False
    assert set_.stream is True
    assert set_.sampling == SamplingParams(
        max_tokens=7, temperature=0.0, top_p=0.5, top_k=3, stop=("x",), seed=-5,
        presence_penalty=1.0, frequency_penalty=-1.0, repetition_penalty=2.0, logprobs=4,
    )  # fmt: skip
    assert requests_of(max_tokens=7)[0].sampling.max_tokens == 7
    assert requests_of(stop=["a", "b"])[0].sampling.stop == ("a", "b")
    assert requests_of(logprobs=True)[0].sampling.logprobs == 0
    assert requests_of(logprobs=False)[0].sampling.logprobs is None


def test_one_request_per_choice_that_differs_in_id_and_seed_only() -> None:
    requests = requests_of(n=8, seed=1)

    assert [r.request_id for r in requests] == ["chatcmpl-1"] + [
        f"chatcmpl-1-{i}" for i in range(1, 8)
    ]
    assert len({r.sampling.seed for r in requests}) == 8
    assert len({r.messages for r in requests}) == 1
    assert {(r.gateway_id, r.tenant_id, r.lane) for r in requests} == {
        ("gateway-1", "tenant-1", "interactive")
    }


@given(seed=st.integers(-(2**63), 2**63 - 1))
def test_seeds_of_choices_are_repeatable_distinct_and_of_64_bits(seed: int) -> None:
    seeds = [r.sampling.seed for r in requests_of(n=8, seed=seed)]

    assert seeds == [r.sampling.seed for r in requests_of(n=8, seed=seed)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 8
    assert all(-(2**63) <= each < 2**63 for each in seeds)


def test_without_a_seed_one_is_drawn() -> None:
    drawn = {requests_of()[0].sampling.seed for _ in range(4)}

    assert len(drawn) == 4
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_usage_counts_the_prompt_once_and_every_answer() -> None:
    usage = usage_of([Finished("a", 1, "stop", 10, 3), Finished("a-1", 1, "length", 10, 4)])

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 7, 17)


def test_answer_is_complete_when_all_choices_have_ended_and_keeps_their_order() -> None:
    builder = CompletionBuilder(2)
    builder.add_tokens(1, Tokens("a-1", 1, 0, [1], ["second"]))
    builder.add_end(1, Finished("a-1", 1, "length", 5, 1))
    assert not builder.is_complete
    builder.add_tokens(0, Tokens("a", 1, 0, [1, 2], ["fi", ""]))
    builder.add_tokens(0, Tokens("a", 1, 2, [3], ["rst"]))
    builder.add_end(0, Finished("a", 1, "stop", 5, 3))
    assert builder.is_complete

    answer = builder.build("chatcmpl-1", "m", 123, logprobs=False)

    assert [c.message.content for c in answer.choices] == ["first", "second"]
    assert [c.finish_reason for c in answer.choices] == ["stop", "length"]
    assert [c.logprobs for c in answer.choices] == [None, None]
    assert answer.usage.completion_tokens == 4


def test_answer_with_logprobs_has_an_entry_per_token() -> None:
    builder = CompletionBuilder(1)
    entries = [TokenLogprob(i, str(i), -0.5) for i in range(3)]
    builder.add_tokens(0, Tokens("a", 1, 0, [0, 1, 2], ["0", "", "12"], entries))
    builder.add_end(0, Finished("a", 1, "stop", 5, 3))

    logprobs = builder.build("a", "m", 1, logprobs=True).choices[0].logprobs

    assert logprobs is not None
    assert [entry.token for entry in logprobs.content] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, '{"type":"object"}'),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "f", "schema": {"b": {"z": "é"}, "a": [1.5, None]}},
            },
            '{"b":{"z":"é"},"a":[1.5,null]}',
        ),
    ],
)
def test_a_response_format_becomes_a_schema_in_its_own_order(
    wanted: dict[str, Any] | None, schema: str | None
) -> None:
    (request,) = requests_of(response_format=wanted, min_tokens=3)

    assert request.sampling.json_schema == schema
    assert request.sampling.min_tokens == 3


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_lane_is_passed_on(lane) -> None:
    origin = Origin("r", "g", "t", lane)

    assert [r.lane for r in generation_requests(chat(n=2), [], origin, Target("m"))] == [lane, lane]
