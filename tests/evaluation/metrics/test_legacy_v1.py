"""`legacy-v1` gives the numbers that LLaVA-Med's own scripts gave for the same answers."""

import pytest

from evaluation.metrics import legacy_v1 as legacy
from evaluation.metrics.legacy_text import normalise

# type | reference | answer -> "exact match", precision, recall, F1, run_eval closed, substring
GOLDEN = [
    ("O", "Left lung", "The lesion is in the left lung.", 0.4, 0.4, 1, 0.5714, None, 1),
    ("O", "left lung", "lung lung lung", 0.3333, 1, 0.75, 0.8571, None, 0),
    ("O", "left lung", "left", 1, 1, 0.5, 0.6667, None, 0),
    ("O", "X-ray", "chest x-ray - PA view", 0, 0, 0, 0, None, 0),
    ("O", "x-ray", "It is an x-ray", 0.5, 0.5, 1, 0.6667, None, 1),
    ("O", "A", "a", 0, 0, 0, 0, None, 1),
    ("O", "two", "There are 2 lesions", 0.25, 0.25, 1, 0.4, None, 1),
    ("O", "cardiomegaly", "Cardiomegaly: enlarged heart", 0, 0, 0, 0, None, 1),
    ("C", "No", "The heart looks normal.", 0, 0, 0, 0, 1, 1),
    ("C", "No", "I do not know", 0, 0, 0, 0, 1, 1),
    ("C", "Left", "left side", 0.5, 0.5, 1, 0.6667, 0, 1),
    ("C", "Yes", "There is evidence of effusion", 0, 0, 0, 0, 0, 0),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[1]}-{row[2]}")
def test_golden_vectors(row: tuple[str, str, str, float, float, float, float, int | None, int]):
    _, reference, answer, exact, precision, recall, f1, closed, substring = row
    found = legacy.overlap(reference, answer)

    assert legacy.exact_match(reference, answer) == pytest.approx(exact, abs=5e-5)
    assert found.precision == pytest.approx(precision, abs=5e-5)
    assert found.recall == pytest.approx(recall, abs=5e-5)
    assert found.f1 == pytest.approx(f1, abs=5e-5)
    assert legacy.closed_by_substring(reference, answer) == substring
    if closed is not None:
        assert legacy.closed_by_words_of_both(reference, answer) == closed


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("x-ray", "x ray"),
        ("chest x-ray - pa", "chest xray pa"),
        ("1,500 ml; well-defined", "1500 ml welldefined"),
        ("left/right", "left right"),
        ("A", ""),
        ("colon:", "colon:"),
        ("None of the two", "0 of 2"),
        ("It isnt. 1.5 cm.", "it isn't 1.5 cm"),
        ("." * 40, "." * 8),
    ],
)
def test_what_a_text_is_seen_as(text: str, seen: str):
    assert normalise(text) == seen


def test_the_first_of_equally_similar_candidates_is_taken():
    candidates = ["lung", "enlarged", "heart", "enlarged heart"]

    assert legacy.open_by_candidates("enlarged heart", "the heart is enlarged", candidates) == 0
    assert legacy.open_by_candidates("enlarged", "the heart is enlarged", candidates) == 1


def test_bleu_without_a_match_is_as_good_as_nothing():
    found = legacy.bleu("left lung", "the left lung")

    assert found["bleu_1"] == 1.0
    assert found["bleu_2"] == 1.0
    assert 0 < found["bleu_3"] < 1e-150
    assert 0 < found["bleu"] < 1e-70
