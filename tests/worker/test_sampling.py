import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.protocol.messages import SamplingParams
from services.worker.engines.sampling import SamplingRow, choose_tokens, draw, uniform_at

VOCAB = 50


def logits(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def row(output: list[int] | None = None, prompt: list[int] | None = None, **params) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), prompt or [], output or [])


def chosen(scores: torch.Tensor, *rows: SamplingRow) -> list[int]:
    choices = choose_tokens(scores, rows)
    assert all(choice is not None for choice in choices)
    return [choice.token_id for choice in choices if choice is not None]


def test_temperature_zero_takes_the_best() -> None:
    scores = logits(0, rows=3)
    rows = [row(temperature=0.0)] * 3
    assert chosen(scores, *rows) == scores.argmax(-1).tolist()


def test_a_mixed_batch_chooses_as_each_row_alone() -> None:
    scores = logits(1, rows=6)
    rows = [
        row(temperature=0.0),
        row(temperature=0.7, seed=1),
        row([3, 4], temperature=0.0, presence_penalty=2.0),
        row([3, 3, 3], temperature=0.7, seed=2, frequency_penalty=1.0),
        row(temperature=1.0, top_p=0.5, top_k=7, seed=3),
        row([1], [2, 5], temperature=1.0, repetition_penalty=1.5, seed=4),
    ]
    alone = [chosen(scores[i : i + 1], each)[0] for i, each in enumerate(rows)]
    assert chosen(scores, *rows) == alone


def test_draws_follow_the_softmax() -> None:
    scores = torch.tensor([[0.0, math.log(2.0), math.log(3.0), -math.inf]])
    num_draws = 6000
    counts = Counter(
        chosen(scores, row(temperature=1.0, seed=seed))[0] for seed in range(num_draws)
    )
    for token_id, share in enumerate((1 / 6, 2 / 6, 3 / 6, 0.0)):
        # five standard errors of a binomial share; nothing at all where the share is 0
        error = 5 * math.sqrt(share * (1 - share) / num_draws)
        assert counts[token_id] / num_draws == pytest.approx(share, abs=error)


def test_top_k_and_top_p_leave_only_the_most_probable() -> None:
    scores = logits(2)
    order = scores[0].argsort(descending=True).tolist()
    by_k = {chosen(scores, row(top_k=3, temperature=5.0, seed=s))[0] for s in range(200)}
    assert by_k == set(order[:3])
    by_p = {chosen(scores, row(top_p=1e-6, temperature=5.0, seed=s))[0] for s in range(50)}
    assert by_p == {order[0]}


def test_the_uniform_number_depends_on_seed_and_position_only() -> None:
    assert uniform_at(5, 7) == uniform_at(5, 7)
    assert len({uniform_at(seed, position) for seed in range(20) for position in range(20)}) == 400
    # a fixed value: another worker, another release, another machine must find the same
    assert uniform_at(0, 0) == 0.6099612561163141


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 100_000))
def test_uniform_numbers_lie_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform_at(seed, position) < 1.0


def test_a_draw_never_takes_an_impossible_token() -> None:
    scores = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    assert draw(scores, [0.0]) == [1]
    assert draw(scores, [1 - 2**-48]) == [3]


def test_presence_and_frequency_penalties_count_output_tokens_only() -> None:
    scores = torch.zeros(1, VOCAB)
    scores[0, 4] = 1.0
    scores[0, 5] = 0.9
    assert chosen(scores, row([4], temperature=0.0, presence_penalty=0.2)) == [5]
    assert chosen(scores, row([], [4], temperature=0.0, presence_penalty=0.2)) == [4]
    assert chosen(scores, row([4], temperature=0.0, frequency_penalty=0.06)) == [4]
    assert chosen(scores, row([4, 4], temperature=0.0, frequency_penalty=0.06)) == [5]
    assert chosen(scores, row([5, 5], temperature=0.0, presence_penalty=-0.2)) == [5]


def test_repetition_penalty_counts_prompt_and_output() -> None:
    scores = torch.full((1, VOCAB), -1.0)
    scores[0, 4] = 1.0
    scores[0, 5] = 0.9
    for output, prompt in (([4], []), ([], [4])):
        assert chosen(scores, row(output, prompt, temperature=0.0, repetition_penalty=1.5)) == [5]
    # an image placeholder beyond the vocabulary is left out
    beyond = row([4], [VOCAB + 3], temperature=0.0, repetition_penalty=1.5)
    assert chosen(scores, beyond) == [5]


def test_the_logits_stay_as_they_were() -> None:
    scores = logits(3)
    before = scores.clone()
    choose_tokens(
        scores,
        [row([1], [2], seed=1, repetition_penalty=2.0, presence_penalty=1.0, top_k=3, top_p=0.5)],
    )
    assert torch.equal(scores, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_none_and_alone(bad: float) -> None:
    scores = logits(4, rows=2)
    scores[0, 10] = bad
    first, second = choose_tokens(scores, [row(temperature=1.0, seed=1), row(temperature=0.0)])
    assert first is None
    assert second is not None
    assert second.token_id == int(scores[1].argmax())


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 2.0, "seed": 5}])
def test_only_what_is_allowed_is_chosen_and_logprobs_stay_raw(params: dict) -> None:
    scores = logits(6, rows=2)
    masked = scores.clone()
    masked[0] = -math.inf
    masked[0, 7] = scores[0, 7]
    penalised = row([7, 7], logprobs=1, repetition_penalty=1.5, presence_penalty=2.0, **params)
    guided, free = choose_tokens(scores, [penalised, row(**params)], masked)
    assert guided is not None
    assert guided.token_id == 7
    expected = scores[0].log_softmax(-1)
    assert guided.logprob == pytest.approx(float(expected[7]))
    assert [i for i, _ in guided.top] == [int(scores[0].argmax())]
    assert free == choose_tokens(scores[1:], [row(**params)])[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_an_allowed_token_or_with_bad_logits_is_none(bad: float) -> None:
    scores = logits(7, rows=3)
    scores[0, 3] = bad
    masked = scores.clone()
    masked[0, 3] = -math.inf
    masked[1] = -math.inf
    choices = choose_tokens(scores, [row(temperature=0.0)] * 3, masked)
    assert [choice is None for choice in choices] == [True, True, False]


def test_logprobs_are_of_the_raw_logits() -> None:
    scores = logits(5)
    (choice,) = choose_tokens(scores, [row([3], temperature=0.3, top_k=2, seed=1, logprobs=4)])
    assert choice is not None
    expected = scores[0].log_softmax(-1)
    assert choice.logprob == pytest.approx(float(expected[choice.token_id]))
    assert [i for i, _ in choice.top] == expected.argsort(descending=True)[:4].tolist()
    (none,) = choose_tokens(scores, [row(temperature=0.0, logprobs=0)])
    assert none is not None
    assert none.logprob is not None
    assert none.top == ()
