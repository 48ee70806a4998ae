"""The corrected metrics do what their names say, where the legacy ones do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.metrics import standard_v1 as standard
from evaluation.metrics.standard_text import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The left lung.", ("left", "lung")),
        ("X-ray", ("x", "ray")),
        ("1,500 ml, 2.5 cm", ("1500", "ml", "2.5", "cm")),
        ("It isn\u2019t two", ("it", "isn't", "2")),
        ("A", ("a",)),
        ("T2-weighted at 1.5T", ("t2", "weighted", "at", "1.5", "t")),
        ("ﬁbrosis", ("fibrosis",)),
        ("", ()),
    ],
)
def test_words(text: str, words: tuple[str, ...]):
    assert words_of(text) == words


def test_an_exact_match_is_exact():
    assert standard.exact_match("Left lung", "the left lung") == 1
    assert standard.exact_match("left lung", "left") == 0
    assert standard.exact_match("left lung", "lung left") == 0


def test_a_word_said_again_does_not_count_again():
    found = standard.overlap("left lung", "lung lung lung")

    assert found.recall == 0.5
    assert found.precision == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("No", "The heart looks normal.", 0),
        ("No", "I do not know", 0),
        ("No", "No, the heart looks normal.", 1),
        ("Yes", "Yes. There is no effusion.", 1),
        ("Left", "left side", 1),
        ("Left lung", "on the left, the lung", 1),
        ("Left lung", "left upper lung", 0),
        ("yes", "", 0),
    ],
)
def test_closed_questions_are_judged_by_words(reference: str, answer: str, right: float):
    assert standard.closed_accuracy(reference, answer) == right


def test_bleu_of_the_same_is_one_and_of_others_is_small():
    assert standard.bleu("lung", "lung") == 1
    assert standard.bleu("left lower lung lobe", "the left lower lung lobe") == 1
    assert 0 < standard.bleu("left lung", "right lung") < 0.5
    assert standard.bleu("left lung", "") == 0


@given(st.text(max_size=40), st.text(max_size=40))
def test_all_are_shares_and_of_a_text_with_itself_one(reference: str, answer: str):
    found = standard.overlap(reference, answer)
    for value in (found.precision, found.recall, found.f1, standard.bleu(reference, answer)):
        assert 0 <= value <= 1 + 1e-9
    if words_of(reference):
        assert standard.overlap(reference, reference).f1 == 1
        assert standard.exact_match(reference, reference) == 1
        assert standard.closed_accuracy(reference, reference) == 1
