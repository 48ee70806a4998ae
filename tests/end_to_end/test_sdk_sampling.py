"""The unmodified OpenAI client: every parameter that chooses tokens acts, on a real model."""

import math
from typing import Any

import pytest
from openai import OpenAI

from tests.end_to_end.chat import (
    numbered,
    read_stream,
    repeats,
    user,
)
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.tiny_model import (
    ask,
    text_of,
    tokens_of,
)

pytestmark = pytest.mark.e2e


# ----------------------------------------------------------------------------------------- sampling


def test_temperature_zero_is_deterministic_whatever_the_seed(tiny_client: OpenAI) -> None:
    assert len({text_of(tiny_client, seed=seed) for seed in (1, 2, 3)}) == 1


def test_same_seed_gives_the_same_text_and_another_seed_another(tiny_client: OpenAI) -> None:
    texts = [text_of(tiny_client, temperature=1, seed=seed) for seed in (11, 11, 12, -5)]

    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_without_a_seed_answers_differ(tiny_client: OpenAI) -> None:
    assert text_of(tiny_client, temperature=1) != text_of(tiny_client, temperature=1)


def test_temperature_changes_what_a_seed_gives(tiny_client: OpenAI) -> None:
    texts = {text_of(tiny_client, temperature=t, seed=5) for t in (0, 0.7, 2)}

    assert len(texts) == 3


@pytest.mark.parametrize("narrowest", [{"top_p": 1e-6}, {"extra_body": {"top_k": 1}}])
def test_narrowest_choice_is_greedy_at_any_temperature(
    tiny_client: OpenAI, narrowest: dict
) -> None:
    assert text_of(tiny_client, temperature=2, seed=3, **narrowest) == text_of(tiny_client)


@pytest.mark.parametrize("wider", [{"top_p": 0.5}, {"extra_body": {"top_k": 20}}])
def test_wider_choice_is_neither_greedy_nor_unlimited(tiny_client: OpenAI, wider: dict) -> None:
    text = text_of(tiny_client, temperature=2, seed=3, **wider)

    assert text not in {text_of(tiny_client), text_of(tiny_client, temperature=2, seed=3)}


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalty_repeats_less_and_reward_repeats_more(tiny_client: OpenAI, name: str) -> None:
    plain, less, more = (repeats(tokens_of(tiny_client, **{name: x})) for x in (0, 2, -2))

    assert less < plain < more


def test_repetition_penalty_repeats_less(tiny_client: OpenAI) -> None:
    plain = repeats(tokens_of(tiny_client))
    penalised = tokens_of(tiny_client, extra_body={"repetition_penalty": 2.0})

    assert repeats(penalised) < plain


def test_user_does_not_change_the_answer(tiny_client: OpenAI) -> None:
    assert text_of(tiny_client, user="ward-3") == text_of(tiny_client)


# ---------------------------------------------------------------------------------- several choices


@pytest.mark.parametrize("n", range(1, 9))
def test_n_gives_n_complete_choices_and_counts_the_prompt_once(fake_client: OpenAI, n: int) -> None:
    question: dict[str, Any] = {"model": FAKE_MODEL, "messages": [user("one two [[n=4]]")], "n": n}
    answer = fake_client.chat.completions.create(**question)
    streamed = read_stream(
        fake_client.chat.completions.create(
            **question, stream=True, stream_options={"include_usage": True}
        )
    )

    assert [choice.index for choice in answer.choices] == list(range(n))
    assert {choice.message.content for choice in answer.choices} == {numbered(4)}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4 * n)
    assert sorted(streamed.choices) == list(range(n))
    assert all(choice.text == numbered(4) for choice in streamed.choices.values())
    assert all(choice.roles == ["assistant"] for choice in streamed.choices.values())
    assert all(choice.finish_reasons == ["stop"] for choice in streamed.choices.values())
    assert streamed.usages == [answer.usage]


def test_choices_are_distinct_and_repeatable_and_the_first_is_that_of_n_1(
    tiny_client: OpenAI,
) -> None:
    first = text_of(tiny_client, temperature=1, seed=9)
    choices = ask(tiny_client, temperature=1, seed=9, n=8).choices
    texts = [choice.message.content for choice in choices]
    again = read_stream(ask(tiny_client, temperature=1, seed=9, n=8, stream=True))

    assert texts[0] == first
    assert len(set(texts)) == 8
    assert [again.choices[i].text for i in range(8)] == texts


# ------------------------------------------------------------------------------ log-probabilities


@pytest.mark.parametrize("num_top", [None, 0, 1, 5, 20])
def test_logprobs_are_sane_and_the_greedy_token_is_the_first_alternative(
    tiny_client: OpenAI, num_top: int | None
) -> None:
    options = {} if num_top is None else {"top_logprobs": num_top}
    answer = ask(tiny_client, logprobs=True, **options)
    logprobs = answer.choices[0].logprobs

    assert len(logprobs.content) == answer.usage.completion_tokens
    for entry in logprobs.content:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == (num_top or 0)
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 for value in (*values, entry.logprob))
        assert sum(map(math.exp, values)) <= 1 + 1e-6
        assert entry.bytes == list(entry.token.encode())
        if values:
            assert entry.top_logprobs[0].token == entry.token
            assert values[0] == entry.logprob


def test_streamed_logprobs_are_those_of_the_whole_answer(tiny_client: OpenAI) -> None:
    whole = ask(tiny_client, logprobs=True, top_logprobs=2).choices[0].logprobs
    streamed = read_stream(ask(tiny_client, logprobs=True, top_logprobs=2, stream=True))

    assert streamed.choices[0].logprobs == [entry.logprob for entry in whole.content]
