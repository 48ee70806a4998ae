"""Who is A, when names are told, and how votes are counted."""

from dataclasses import replace

import pytest

from services.ui.blind_test import RATINGS, Choice, Contestant, Round, Score, Tally
from services.ui.conversation import Conversation, Turn
from services.ui.problems import Problem

WARM, COLD = Contestant("warm-model", 1.0), Contestant("cold-model", 0.0)
DONE = Turn("q", answer="a", state="complete", request_id="r")


def round_of(
    left: Turn = DONE, right: Turn = DONE, *, is_blind: bool = True, is_swapped: bool = False
) -> Round:
    both = Conversation((left,)), Conversation((right,))
    return Round((WARM, COLD), is_blind, is_swapped, both)


def text_of(side: int, of: Round) -> str:
    return str(of.messages(side)) + of.label(side)


@pytest.mark.parametrize("is_swapped", [False, True])
def test_names_are_hidden_until_the_vote_and_then_told_of_the_right_side(
    is_swapped: bool,
) -> None:
    hidden = round_of(is_swapped=is_swapped)
    voted = replace(hidden, vote="a")

    assert [hidden.label(side) for side in (0, 1)] == ["Answer A", "Answer B"]
    expected = [COLD, WARM] if is_swapped else [WARM, COLD]
    assert [voted.label(side) for side in (0, 1)] == [
        f"Answer A: {expected[0].name}", f"Answer B: {expected[1].name}"
    ]  # fmt: skip


def test_without_blindness_names_are_told_at_once() -> None:
    assert round_of(is_blind=False).is_open


def test_a_problem_of_one_side_names_no_model_while_the_other_answers() -> None:
    problem = Problem("the worker of 'cold-model' is gone", code="worker_lost")
    failed = Turn("q", state="failed", problem=problem)
    under_way = round_of(Turn("q", state="streaming"), failed)
    over = round_of(DONE, failed)

    assert "cold-model" not in text_of(1, under_way)
    assert "this model" in text_of(1, under_way)
    assert not over.can_be_voted_on
    assert "cold-model" in text_of(1, over)  # there is nothing left to be blind about


def test_half_answers_are_not_voted_on() -> None:
    stopped = round_of(DONE, Turn("q", answer="a", state="streaming", request_id="r")).stopped()

    assert [turn.state for turn in stopped.turns] == ["complete", "stopped"]
    assert stopped.is_over
    assert not stopped.can_be_voted_on


def test_a_further_question_goes_on_until_the_vote_or_another_choice() -> None:
    before = round_of()

    assert before.goes_on((WARM, COLD), is_blind=True)
    assert not before.goes_on((WARM, WARM), is_blind=True)
    assert not before.goes_on((WARM, replace(COLD, temperature=0.5)), is_blind=True)
    assert not before.goes_on((WARM, COLD), is_blind=False)
    assert not replace(before, vote="both").goes_on((WARM, COLD), is_blind=True)


def test_a_vote_says_what_the_answer_was_compared_with() -> None:
    swapped = round_of(is_swapped=True)

    assert swapped.reason(0) == "blind comparison against warm-model at temperature 1"
    assert swapped.reason(1) == "blind comparison against cold-model at temperature 0"
    assert round_of(is_blind=False).reason(0).startswith("open comparison against cold-model")


@pytest.mark.parametrize(
    ("choice", "warm", "cold"),
    [
        ("a", Tally(worse=1), Tally(better=1)),  # A is the cold one
        ("b", Tally(better=1), Tally(worse=1)),
        ("both", Tally(both_good=1), Tally(both_good=1)),
        ("none", Tally(both_bad=1), Tally(both_bad=1)),
    ],
)
def test_a_vote_is_counted_for_the_model_behind_the_letter(
    choice: Choice, warm: Tally, cold: Tally
) -> None:
    score = Score().with_vote(round_of(is_swapped=True), choice)

    assert score.tallies == {WARM.name: warm, COLD.name: cold}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("a", {}), ("b", {}), ("both", {WARM.name: Tally(both_good=1)})],
)
def test_a_model_against_itself_wins_nothing(choice: Choice, expected: dict[str, Tally]) -> None:
    both = Round((WARM, WARM), is_blind=True, is_swapped=False)

    assert Score().with_vote(both, choice).tallies == expected


def test_every_choice_rates_both_answers() -> None:
    assert RATINGS == {
        "a": ("up", "down"), "b": ("down", "up"), "both": ("up", "up"), "none": ("down", "down"),
    }  # fmt: skip


def test_the_winner_stands_first() -> None:
    score = Score()
    for choice in ("b", "b", "both"):
        score = score.with_vote(round_of(), choice)

    assert score.rows() == [
        (COLD.name, "2", "0", "1", "0"), (WARM.name, "0", "2", "1", "0"),
    ]  # fmt: skip
