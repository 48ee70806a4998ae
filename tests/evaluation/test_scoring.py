"""Means over a set, their intervals, and what decides whether two runs may be compared."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.receipt import compare, items_hash, read_receipt, receipt_of, why_not
from evaluation.scoring import score
from evaluation.uncertainty import difference, estimate
from evaluation.vqa_items import Item

ITEMS = [
    Item(
        id=str(number),
        image=f"{number // 4}.png",
        is_closed=number % 2 == 0,
        kind="SIDE",
        question=f"Q{number}?",
        reference="yes" if number % 2 == 0 else "left lung",
    )
    for number in range(40)
]
RIGHT = {item.id: item.reference for item in ITEMS}
IDENTITY = {
    "kind": "evaluation",
    "benchmark": "folder/test",
    "items_sha256": items_hash(ITEMS),
    "model": "m",
    "decoding": {"temperature": 0.0},
}


def test_right_answers_have_full_marks_in_both_versions():
    found = score(ITEMS, RIGHT, ["left lung", "heart"]).estimates
    for name, value in found.items():
        if "bleu" not in name:
            assert value.mean == 1.0, name
    assert found["standard-v1/open bleu"].mean == 1.0
    assert found["legacy-v1/open candidate accuracy"].num == 20
    assert found["standard-v1/closed accuracy"].num == 20


def test_a_question_without_an_answer_counts_as_wrong_and_is_counted():
    some = {name: text for name, text in RIGHT.items() if int(name) < 30}
    found = score(ITEMS, some | {"nobody": "x"})
    assert found.num_unanswered == 10
    assert found.unknown == ("nobody",)
    assert found.estimates["standard-v1/closed accuracy"].mean == 0.75
    assert found.estimates["legacy-v1/closed accuracy (run_eval_batch)"].mean == 0.75


def test_an_empty_reference_is_not_found_in_a_missing_answer():
    """`legacy-v1` finds an empty text in every answer."""
    items = [replace(ITEMS[1], reference="A")]
    assert score(items, {}).estimates["legacy-v1/open substring accuracy"].mean == 0.0
    assert score(items, {"1": ""}).estimates["legacy-v1/open substring accuracy"].mean == 1.0


def test_a_set_of_one_kind_has_the_metrics_of_that_kind():
    closed = [item for item in ITEMS if item.is_closed]
    assert all("closed" in name for name in score(closed, RIGHT).estimates)


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    """Images of ten questions that are all right or all wrong: 30 of them, not 300 questions."""
    rng = np.random.default_rng(0)
    images = [str(number // 10) for number in range(300)]
    held = 0
    for _ in range(200):
        values = np.repeat(rng.random(30) < 0.7, 10).astype(float)
        found = estimate(values.tolist(), images)
        held += found.low <= 0.7 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_chance_differences_have_even_p_values_and_real_ones_small():
    rng = np.random.default_rng(1)
    images = [str(number // 2) for number in range(60)]
    small = 0
    for _ in range(150):
        first, second = rng.random((2, 60)) < 0.6
        small += difference(first.astype(float), second.astype(float), images).p_value < 0.1
    assert 0.04 <= small / 150 <= 0.18

    better = difference([0.0] * 60, [1.0] * 60, images)
    assert better.mean == 1.0
    assert better.p_value < 0.001


def test_a_receipt_holds_no_text(tmp_path: Path):
    receipt = receipt_of(IDENTITY, score(ITEMS, RIGHT))
    text = json.dumps(receipt)
    assert receipt["status"] == "complete"
    assert "left lung" not in text
    assert "Q3?" not in text
    (tmp_path / "receipt.json").write_text(text, "utf-8")
    assert read_receipt(tmp_path) == json.loads(text)


def test_the_hash_of_questions_depends_on_all_but_their_order():
    assert items_hash(ITEMS[::-1]) == items_hash(ITEMS)
    for change in ({"reference": "no"}, {"question": "?"}, {"image": "x"}, {"is_closed": False}):
        assert items_hash([replace(ITEMS[0], **change), *ITEMS[1:]]) != items_hash(ITEMS)


def test_two_runs_are_compared_question_by_question():
    worse = {name: ("no" if int(name) % 8 == 0 else text) for name, text in RIGHT.items()}
    first = receipt_of(IDENTITY, score(ITEMS, worse))
    second = receipt_of(IDENTITY | {"model": "n"}, score(ITEMS, RIGHT))
    found = compare(first, second)
    accuracy = found["standard-v1/closed accuracy"]
    assert accuracy.mean == pytest.approx(0.25)
    assert accuracy.num == 20
    assert found["standard-v1/open recall"].mean == 0.0
    assert found["standard-v1/open recall"].p_value == 1.0
    assert asdict(accuracy).keys() == {"mean", "low", "high", "p_value", "num"}


def test_what_is_not_comparable_is_refused_with_all_reasons():
    some = {name: text for name, text in RIGHT.items() if int(name)}
    first = receipt_of(IDENTITY, score(ITEMS, some))
    second = receipt_of(IDENTITY | {"decoding": {"temperature": 0.7}}, score(ITEMS[:20], RIGHT)) | {
        "items_sha256": items_hash(ITEMS[:20])
    }
    reasons = why_not(first, second)
    assert len(reasons) == 3
    assert "items_sha256" in reasons[0]
    assert "decoding" in reasons[1]
    assert "the first is incomplete: 1 unanswered" in reasons[2]
    with pytest.raises(EvaluationError, match="not comparable: items_sha256"):
        compare(first, second)


@pytest.mark.parametrize("content", ["", "[]", '{"version": 99}', "{"])
def test_what_is_no_receipt_is_refused(tmp_path: Path, content: str):
    file = tmp_path / "receipt.json"
    file.write_text(content)
    with pytest.raises(EvaluationError, match="is no receipt"):
        read_receipt(file)
