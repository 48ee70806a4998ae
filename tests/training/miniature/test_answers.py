"""The plain scores of the miniature."""

import pytest

from training.miniature.answers import Answer, closed_accuracy, open_recall, score


@pytest.mark.parametrize(
    ("reference", "said", "expected"),
    [
        ("yes", "yes", 1.0),
        ("no", "It is in the upper part, so no.", 1.0),
        ("yes", "no", 0.0),
        ("no", "It is not known.", 0.0),  # neither of the words
        ("yes", "yes and no", 0.0),
        ("yes", "Yes.", 1.0),
    ],
)
def test_a_closed_answer_is_right_where_it_says_the_right_word_alone(
    reference: str, said: str, expected: float
):
    assert closed_accuracy(reference, said) == expected


@pytest.mark.parametrize(
    ("reference", "said", "expected"),
    [
        ("upper", "They lie in the upper part.", 1.0),
        ("lymph node", "lymph", 0.5),
        ("left lung", "lung lung lung", 0.5),  # a word counts as often as it is asked for
        ("two", "zero", 0.0),
        ("MRI", "The modality is mri", 1.0),
    ],
)
def test_an_open_answer_is_scored_by_the_words_it_holds(reference: str, said: str, expected: float):
    assert open_recall(reference, said) == expected


def test_means_are_told_apart_by_kind():
    answers = [
        Answer("1", "a.png", "?", "side", is_closed=True, reference="yes", said="yes"),
        Answer("2", "a.png", "?", "side", is_closed=True, reference="no", said="yes"),
        Answer("3", "a.png", "?", "side", is_closed=False, reference="left", said="left"),
    ]

    found = score(answers)

    assert (found.closed, found.open) == (0.5, 1.0)
    assert found.by_kind == {"CLOSED side": (0.5, 2), "OPEN side": (1.0, 1)}
