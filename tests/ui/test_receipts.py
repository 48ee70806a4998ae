"""Receipts as tables, and what two of them must agree in."""

import json
from typing import Any

import pytest

from evaluation.receipt import compare, why_not
from services.ui.html_tables import percent
from services.ui.receipts import (
    difference_rows,
    kind_rows,
    made_with_differences,
    made_with_rows,
    metric_rows,
    read_receipt,
    why_not_comparable,
    without_legacy,
)
from tests.ui.evaluated import RIGHT, receipt

WORSE = {**RIGHT, "c0": "no", "o0": "left", "o1": "heart"}
RECALL = "standard-v1/open recall"


def row_of(rows: list[list[str]], metric: str, version: str = "standard-v1") -> list[str]:
    (found,) = [row for row in rows if row[:2] == [metric, version]]
    return found


def test_metrics_come_with_their_intervals() -> None:
    found = receipt(WORSE)["metrics"]

    assert row_of(metric_rows(found), "open recall") == [
        "open recall", "standard-v1", percent(found[RECALL]), "4",
    ]  # fmt: skip
    assert percent(found[RECALL]).startswith("62.5 % (")
    assert {name.partition("/")[0] for name in without_legacy(found)} == {"standard-v1"}


def test_types_of_questions_have_their_means() -> None:
    assert kind_rows(receipt(WORSE)) == [
        ["open ORGAN", "standard-v1/open recall", "62.5 %", "4"],
        ["closed PRES", "standard-v1/closed accuracy", "75.0 %", "4"],
    ]


def test_a_receipt_says_what_it_was_made_with() -> None:
    found = {name: value for name, value in made_with_rows(receipt())}  # noqa: C416 - lists, no pairs

    assert found["decoding"] == "temperature 0.0, seed 0"
    assert found["checkpoint_fingerprint"] == "33"
    assert found["versions"] == "torch 2"
    assert found["images, endpoint"] == "default@1/ab 8"
    assert "candidates_sha256" not in found


def test_runs_of_two_models_can_be_compared() -> None:
    first, second = receipt(), receipt(WORSE, model="n", model_facts={})

    assert why_not_comparable(first, second) == why_not(first, second) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "judgement", "kind of run"),
        ("benchmark", "other", "benchmark"),
        ("items_sha256", "99", "questions (items_sha256)"),
        ("images_sha256", "99", "images (images_sha256)"),
        ("decoding", {"temperature": 1.0}, "decoding"),
        ("candidates_sha256", "99", "candidates of open answers"),
        ("preprocessing", {"here": {"png": 8}}, "preprocessing of the images"),
        ("model_facts", {"checkpoint_fingerprint": "99"}, "checkpoint_fingerprint of the model"),
    ],
)
def test_each_field_that_forbids_a_comparison_is_named(field: str, value: Any, words: str) -> None:
    reasons = why_not_comparable(receipt(), receipt(**{field: value}))

    assert len(reasons) == 1
    assert reasons[0].startswith(words)


@pytest.mark.parametrize("field", ["metric_versions", "version"])
def test_other_versions_of_scoring_and_receipt_are_named(field: str) -> None:
    (reason,) = why_not_comparable(receipt(), {**receipt(), field: ["other"]})

    assert field.partition("_")[0] in reason


def test_unanswered_questions_are_named() -> None:
    (reason,) = why_not_comparable(receipt(), receipt({"c0": "yes"}))

    assert reason.startswith("questions without an answer: 7 of the second")


def test_differences_are_those_of_galen_evaluate_compare() -> None:
    first, second = receipt(), receipt(WORSE, model="n", model_facts={})

    found = {f"{row[1]}/{row[0]}": row for row in difference_rows(first, second)}

    truth = compare(first, second)
    assert {name: row[4] for name, row in found.items()} == {
        name: f"{100 * value.mean:+.1f}" for name, value in truth.items()
    }
    assert found[RECALL][4:] == ["-37.5", "0", "2"]
    assert [row[6] for row in difference_rows(second, first) if row[0] == "closed accuracy"] == [
        "0"
    ]


def test_what_runs_were_made_with_is_told_where_it_differs() -> None:
    assert made_with_differences(receipt(), receipt(model="n")) == [["model", "m", "n"]]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"items": [], "metrics": 3}', b"\xff"])
def test_what_is_no_receipt_is_none(content: bytes) -> None:
    assert read_receipt(content) is None


def test_a_receipt_is_read() -> None:
    assert read_receipt(json.dumps(receipt()).encode()) == receipt()
