"""Each step and each family of the specification's section 3.4, one by one.

The order of the rules and how turns come about are in `test_legacy_v1.py`.
"""

import pytest

from datagen.postprocess.legacy_v1 import LegacyV1, clean_answer
from datagen.postprocess.parsing import turns_as_seed
from tests.datagen.postprocess.test_legacy_v1 import item_of


@pytest.mark.parametrize(
    ("result", "pairs"),
    [
        ("Sure. Assistant: no. User: a? Assistant: b.", [("a?", "b.")]),  # 1: before the first
        ("User: a? User: b? Assistant: c.", [("b?", "c.")]),  # 2: no reply
        ("User: a? Assistant: say Assistant: b.", []),  # 2: the mark inside an answer
        ("User: a, User: b? Assistant: c.", [("b?", "c.")]),  # 1: the mark inside a question
        ("User:\n a? \nAssistant:\t b. \n", [("a?", "b.")]),  # 3
        ("user: a? assistant: b.", []),  # case counts
        ("", []),
    ],
)
def test_a_result_is_split_into_turns(result: str, pairs: list[tuple[str, str]]) -> None:
    assert turns_as_seed(result).pairs == pairs


@pytest.mark.parametrize(
    "answer",
    [
        "Having access to it would help.",
        "It is hard without access to it.",
        "I do not have access to it.",
        "With access to the image one could tell.",
        "With access to the actual image one could tell.",
        "One cannot tell without seeing it.",
        "I cannot see it.",
        "I cannot view it.",
        "I cannot directly view it.",
        "I am unable to view it.",
        "I am unable to directly view it.",
        "I am unable to provide specific details.",
        "I am SORRY for that.",
        "Size is not mentioned in the caption.",
        "Size is not provided in the figure caption.",
        "Size is not specified in the image caption.",
        "The image is not available.",
        "The image itself is not available.",
    ],
)
def test_a_refusal_of_each_family_drops_the_pair(answer: str) -> None:
    for told in (answer, answer.upper(), f"A mass. {answer}"):
        assert clean_answer(told) == (None, "refusal")


def test_a_refusal_comes_before_a_lead_in_and_an_infix() -> None:
    assert clean_answer("According to the caption, I cannot see it.") == (None, "refusal")
    assert clean_answer("A mass, as mentioned in the caption, sorry.") == (None, "refusal")


@pytest.mark.parametrize(
    "lead_in",
    [
        "According to the caption, ",
        "Based on the caption, ",
        "According to the description, ",
        "According to the context, ",
        "According to the image description, ",
        "Based on the figure caption, ",
        "Based on the provided context, ",
        "Based on the description provided, ",
        "Yes, according to the caption, ",
        "No, based on the context, ",
        "Based on the MRI description, ",
        "Based on the CT description, ",
        "Based on the histology description, ",
        "The caption mentions that ",
        "The description suggests that ",
        "The context indicates that ",
        "Yes, the caption mentions that ",
        "No, the image description indicates that ",
    ],
)
def test_a_lead_in_of_each_family_is_cut_and_the_rest_is_lower_cased(lead_in: str) -> None:
    assert clean_answer(f"{lead_in}the MRI of T2 and H&E.") == (
        "The mri of t2 and h&e.",
        "lead_in_cut",
    )


@pytest.mark.parametrize("word", ["description", "caption", "Caption", "DESCRIPTION"])
def test_behind_a_lead_in_the_words_are_found_in_any_case(word: str) -> None:
    """Cutting has lower-cased them; only the first letter of the rest is a capital."""
    answer = f"According to the context, a {word} says so."
    assert clean_answer(answer) == (None, "caption_leak")
    assert clean_answer("Based on the context, caption is one.") == (
        "Caption is one.",
        "lead_in_cut",
    )


def test_only_one_lead_in_is_cut_and_only_at_the_start() -> None:
    twice = "Based on the context, based on the context, A."
    assert clean_answer(twice) == ("Based on the context, a.", "lead_in_cut")
    assert clean_answer("So the context suggests that A.") == (
        "So the context suggests that A.",
        "",
    )


def test_behind_a_lead_in_no_infix_is_removed() -> None:
    answer = "Based on the context, a mass, as mentioned in the context."
    assert clean_answer(answer) == ("A mass, as mentioned in the context.", "lead_in_cut")


@pytest.mark.parametrize(
    "infix",
    [
        *(f", as {verb} in the {source}"
          for verb in ("mentioned", "described", "indicated")
          for source in ("context", "description", "caption", "provided context")),
        ", in the context of the image provided,",
        ", in the context of the MRI provided,",
        ", in the context of the X-ray provided,",
    ],
)  # fmt: skip
def test_an_infix_of_each_family_goes_wherever_it_stands_and_case_is_kept(infix: str) -> None:
    answer = f"A T2 mass{infix} of H&E{infix} and MRI."
    assert clean_answer(answer) == ("A T2 mass of H&E and MRI.", "infix_removed")


def test_an_infix_in_another_case_stays() -> None:
    answer = "A mass, AS MENTIONED in the context."
    assert clean_answer(answer) == (answer, "")


@pytest.mark.parametrize("word", ["description", "caption"])
def test_what_is_left_is_dropped_by_its_words_whose_case_counts(word: str) -> None:
    assert clean_answer(f"A {word} of it.") == (None, "caption_leak")
    assert clean_answer(f"A mass, as described in the {word}, {word}s.") == (None, "caption_leak")
    kept = f"A {word.upper()} of it."
    assert clean_answer(kept) == (kept, "")


def test_only_the_first_question_has_the_mark_on_a_line_of_its_own() -> None:
    profile = LegacyV1(1)
    for _ in range(20):
        item, _ = item_of("User: a? Assistant: b. User: c? Assistant: d.", profile)
        first, *others = [turn.value for turn in item.conversations]
        assert first in {"a?\n<image>", "<image>\na?"}
        assert others == ["b.", "c?", "d."]


def test_a_later_pair_that_is_dropped_leaves_the_mark() -> None:
    item, notes = item_of("User: a? Assistant: b. User: c? Assistant: A caption.")
    assert len(item.conversations) == 2
    assert "<image>" in item.conversations[0].value
    assert notes == [("turn", "caption_leak", 1)]
