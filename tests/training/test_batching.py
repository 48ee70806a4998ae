"""Each example comes once per epoch, in the same step whatever the layout, in rows that fit."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.batching import Layout, Lengths, StepPlan, micro_batches, rows_of

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
MOST_TOKENS = 40


@st.composite
def tables(draw: st.DrawFn) -> Lengths:
    """Examples of few images; some of an image share its tokens, some begin otherwise."""
    made: list[tuple[int, int, int, int]] = []
    for _ in range(draw(st.integers(1, 40))):
        image = draw(st.integers(-1, 5))
        prefix = 0 if image < 0 else draw(st.sampled_from((0, 7, 9)))
        tokens = draw(st.integers(prefix + 1, MOST_TOKENS))
        made.append((tokens, prefix, image, image * 10 + prefix if prefix else -1))
    columns = np.array(made).T
    return Lengths(*columns)


def plan_of(lengths: Lengths, step: int, questions: int, seed: int) -> StepPlan:
    return StepPlan(lengths, step, questions, seed, total_steps=1000)


def row_length(row: Sequence[int], lengths: Lengths) -> int:
    """Count a row's tokens slowly: a shared beginning once."""
    begun: set[int] = set()
    total = 0
    for example in row:
        key = int(lengths.prefix_key[example])
        total += int(lengths.num_tokens[example])
        if key >= 0 and key in begun:
            total -= int(lengths.prefix_tokens[example])
        begun.add(key)
    return total


@given(tables(), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
def test_each_epoch_shows_each_example_once_on_any_number_of_ranks(
    lengths: Lengths, step: int, questions: int, seed: int, num_ranks: int
):
    plan = plan_of(lengths, step, questions, seed)
    for layout in LAYOUTS:
        for epoch in range(2):
            seen: Counter[int] = Counter()
            for within in range(plan.steps_per_epoch):
                examples = plan.examples_of(epoch * plan.steps_per_epoch + within).tolist()
                rows = rows_of(examples, lengths, layout, MOST_TOKENS)
                for mine in micro_batches(rows, 2, num_ranks):
                    seen.update(chain.from_iterable(chain.from_iterable(mine)))
            assert seen == Counter(range(len(lengths.num_tokens)))


@given(tables(), st.integers(1, 20), st.integers(0, 3))
def test_every_layout_has_the_same_examples_in_a_step(lengths: Lengths, step: int, seed: int):
    examples = plan_of(lengths, step, 3, seed).examples_of(0).tolist()
    made = [rows_of(examples, lengths, layout, MOST_TOKENS) for layout in LAYOUTS]
    assert [sorted(chain.from_iterable(rows)) for rows in made] == [sorted(examples)] * len(LAYOUTS)


@given(tables(), st.integers(MOST_TOKENS, 3 * MOST_TOKENS))
def test_no_packed_row_is_longer_than_allowed(lengths: Lengths, row_tokens: int):
    rows = rows_of(range(len(lengths.num_tokens)), lengths, "packed", row_tokens)
    assert all(0 < row_length(row, lengths) <= row_tokens for row in rows)


@given(tables())
def test_packing_takes_at_most_as_many_rows_as_first_fit_promises(lengths: Lengths):
    examples = range(len(lengths.num_tokens))
    rows = rows_of(examples, lengths, "packed", MOST_TOKENS, shares_prefixes=False)
    fewest = -(-int(lengths.num_tokens.sum()) // MOST_TOKENS)
    assert len(rows) <= 2 * fewest  # no two rows are half empty


@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 5))
def test_ranks_have_equally_many_micro_batches_none_too_large(
    num_rows: int, rows_each: int, num_ranks: int
):
    rows = [(n,) for n in range(num_rows)]
    dealt = micro_batches(rows, rows_each, num_ranks)
    assert len(dealt) == num_ranks
    assert len({len(mine) for mine in dealt}) == 1
    assert len(dealt[0]) >= 1
    assert all(len(batch) <= rows_each for mine in dealt for batch in mine)
    assert sorted(chain.from_iterable(chain.from_iterable(dealt))) == rows


@given(tables(), st.integers(1, 9), st.integers(1, 4))
def test_the_seed_decides_the_order_and_epochs_differ(lengths: Lengths, step: int, questions: int):
    def order(seed: int, epoch: int) -> list[int]:
        plan = plan_of(lengths, step, questions, seed)
        first = epoch * plan.steps_per_epoch
        steps = [plan.examples_of(first + n).tolist() for n in range(plan.steps_per_epoch)]
        return list(chain.from_iterable(steps))

    assert order(1, 0) == order(1, 0)
    if len(np.unique(lengths.image_key)) > 5 and len(lengths.num_tokens) > 30:
        assert order(1, 0) != order(2, 0)
        assert order(1, 0) != order(1, 1)


@given(tables(), st.integers(2, 4), st.integers(0, 3))
def test_questions_of_an_image_stand_together_up_to_a_number(
    lengths: Lengths, questions: int, seed: int
):
    plan = plan_of(lengths, len(lengths.num_tokens), questions, seed)
    keys = lengths.image_key[plan.examples_of(0)].tolist()
    for image in {key for key in keys if key >= 0}:
        places = [at for at, key in enumerate(keys) if key == image]
        num_groups = 1 + sum(b - a > 1 for a, b in pairwise(places))
        assert num_groups <= -(-len(places) // questions)


def test_grouped_rows_go_from_the_longest_to_the_shortest():
    nothing = np.full(4, -1)
    lengths = Lengths(np.array([3, 9, 5, 9]), np.zeros(4, int), nothing, nothing)
    assert rows_of([0, 1, 2, 3], lengths, "grouped", 9) == [(1,), (3,), (2,), (0,)]
