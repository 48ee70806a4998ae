"""Receipts say how images became pixels: here, and by the endpoint's own word, with counts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import Response

from evaluation.preprocessing import preprocessing_in
from evaluation.receipt import what_differs
from modeling.medical_images.choice import AS_IT_IS
from modeling.medical_images.recipes import fingerprint
from services.endpoint_client.client import PREPROCESS_HEADER
from tests.end_to_end.launched import galen
from tests.evaluation.vqa_files import question, write_answers, write_set
from tests.modeling.medical_images.shipped import shipped
from tests.support.stub_endpoint import StubEndpoint, completion

HERE = fingerprint(AS_IT_IS, "sent as PNG")


def says(body: Mapping[str, Any], number: int) -> Response:
    """Two ways, and once nothing."""
    answer = completion("yes")
    if number:
        answer.headers[PREPROCESS_HEADER] = "default@1/aa" if number % 2 else "grey@1/bb"
    return answer


def test_a_receipt_counts_the_ways_that_answers_tell(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", num_images=2, each=3)
    records = json.loads((data / "test.json").read_text("utf-8"))
    records += [
        question("ct", "CT?", "yes", image="a.dcm"),
        question("no", "And?", "no", image=None),
    ]
    (data / "test.json").write_text(json.dumps(records), "utf-8")
    (data / "images" / "a.dcm").write_bytes(shipped("CT_small.dcm"))
    words = ("--data", str(data), "--out", str(tmp_path / "run"), "--at-once", "1")

    with StubEndpoint(says) as stub:
        done = galen("evaluate", "folder", *words, "--url", stub.url)

    assert done.returncode == 0, done.stderr
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text("utf-8"))
    assert receipt["preprocessing"] == {
        "here": {"as it is": 6, HERE: 1},
        "endpoint": {"default@1/aa": 3, "grey@1/bb": 3, "not told": 1},
    }
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "images, endpoint" in report
    assert "grey@1/bb" in report


def test_answers_of_other_programs_tell_nothing_of_images(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {"1": "yes"})
    assert preprocessing_in(answers) == {"here": {}, "endpoint": {}}


def test_runs_whose_images_were_made_differently_are_told_so() -> None:
    first = {"model": "m", "preprocessing": {"here": {}, "endpoint": {"default@1/aa": 3}}}
    second = {"model": "m", "preprocessing": {"here": {}, "endpoint": {"grey@1/bb": 3}}}
    assert what_differs(first, second) == {"images, endpoint": ("default@1/aa", "grey@1/bb")}
