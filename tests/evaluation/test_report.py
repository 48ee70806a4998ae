"""Reports made anew, their questions as CSV, and what two receipts differ in."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluation.csv_file import write_csv
from evaluation.report_page import filters_of, plot_of
from tests.end_to_end.launched import galen
from tests.evaluation.chat_files import chat_record, fair, is_for_judge, write_chat
from tests.evaluation.vqa_files import question, write_answers, write_set
from tests.support.stub_endpoint import StubEndpoint, completion

EVIL = "<script>document.title='ran'</script><img src=x onerror=alert(2)>{{ 7*7 }}\"'></style>"


def report(*words: object) -> Any:
    return galen("evaluate", "report", *map(str, words))


def run(data: Path, out: Path, **told: Any) -> Path:
    """Make a run of `vqa-rad` with right and wrong answers."""
    model = told.pop("model", "stub")
    answer = told.pop("answer", "yes")
    with StubEndpoint(lambda body, number: completion(answer), models=(model,), told=told) as stub:
        words = ["vqa-rad", "--data", str(data), "--out", str(out), "--url", stub.url]
        done = galen("evaluate", *words)
    assert done.returncode == 0, done.stderr
    return out


def judged_run(questions: Path, out: Path) -> Path:
    with StubEndpoint(fair) as stub:
        words = ["--questions", str(questions), "--out", str(out), "--url", stub.url, "--swap"]
        done = galen("evaluate", "chat", *words)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "data")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_chat(tmp_path / "chat", [chat_record(n, "mri") for n in range(4)])


# ---------------------------------------------------------------------------------- made anew


def test_a_report_made_anew_is_the_one_of_the_run(data: Path, tmp_path: Path):
    folder = run(data, tmp_path / "run")
    files = ["--gt", data / "test.json", "--images", data / "images"]
    done = report(folder, *files, "--out", tmp_path / "again.html")
    assert done.returncode == 0, done.stderr
    before = (folder / "report.html").read_text("utf-8")
    assert (tmp_path / "again.html").read_text("utf-8") == before
    assert "LLaVA-Med (from LLaVA)" in before
    assert "the released one (the paper&#39;s main row)" in before  # 15 epochs
    assert "so figures of others are not of these questions" in before


def test_a_judged_report_made_anew_is_the_one_of_the_run(questions: Path, tmp_path: Path):
    folder = judged_run(questions, tmp_path / "run")
    files = ["--gt", questions, "--images", questions.parent / "images"]
    done = report(folder, *files, "--out", tmp_path / "again.html")
    assert done.returncode == 0, done.stderr
    before = (folder / "report.html").read_text("utf-8")
    assert (tmp_path / "again.html").read_text("utf-8") == before
    assert "What is seen 3?" in before
    assert "Said 3." in before
    assert "A mass." in before
    assert "model 5, reference 10" in before
    assert "Well." in before
    assert "LLaVA-Med, 60K-IM" in before


def test_without_the_questions_it_shows_what_the_run_kept(
    data: Path, questions: Path, tmp_path: Path
):
    folder = run(data, tmp_path / "run")
    done = report(folder)
    assert done.returncode == 0
    assert "without references" in done.stderr
    shown = (folder / "report.html").read_text("utf-8")
    assert "Question 7?" in shown
    assert "left lung" not in shown
    folder = judged_run(questions, tmp_path / "judged")
    assert report(folder).returncode == 0
    shown = (folder / "report.html").read_text("utf-8")
    assert "What is seen 3?" in shown
    assert "A mass." not in shown


def test_answers_of_a_run_of_judge_lie_elsewhere(questions: Path, tmp_path: Path):
    said = write_answers(tmp_path / "said.jsonl", {str(n): f"Said {n}." for n in range(4)})
    with StubEndpoint(fair) as stub:
        words = ["--questions", questions, "--answers", said, "--out", tmp_path / "judged"]
        done = galen("evaluate", "judge", *map(str, words), "--url", stub.url)
    assert done.returncode == 0, done.stderr
    before = (tmp_path / "judged" / "report.html").read_text("utf-8")
    assert "Said 3." in before
    assert report(tmp_path / "judged", "--gt", questions).returncode == 0
    assert "Said 3." not in (tmp_path / "judged" / "report.html").read_text("utf-8")
    assert report(tmp_path / "judged", "--gt", questions, "--answers", said).returncode == 0
    assert (tmp_path / "judged" / "report.html").read_text("utf-8") == before


def test_files_of_another_run_are_refused(data: Path, questions: Path, tmp_path: Path):
    folder, judged = run(data, tmp_path / "run"), judged_run(questions, tmp_path / "judged")
    changed = json.loads((data / "test.json").read_text("utf-8"))
    changed[0]["conversations"][1]["value"] = "right lung"
    (data / "test.json").write_text(json.dumps(changed), "utf-8")
    done = report(folder, "--gt", data / "test.json")
    assert done.returncode == 1
    assert "does not hold the questions of this run" in done.stderr
    other = write_chat(tmp_path / "other", [chat_record(n, "gross") for n in range(4)])
    assert "does not hold the questions" in report(judged, "--gt", other).stderr

    answers = folder / "answers.jsonl"
    answers.write_text(answers.read_text("utf-8").replace('"yes"', '"no"'), "utf-8")
    done = report(folder)
    assert done.returncode == 1
    assert "is not the one of the receipt" in done.stderr

    receipt = json.loads((folder / "receipt.json").read_text("utf-8"))
    (folder / "receipt.json").write_text(json.dumps(receipt | {"version": 1}), "utf-8")
    assert "is no receipt of version 2" in report(folder).stderr
    (folder / "receipt.json").unlink()
    assert "until its command has gone on to the end" in report(folder).stderr


# ------------------------------------------------------------------------------ what is hostile


def test_a_judged_report_shows_answers_and_replies_as_text(tmp_path: Path):
    records = [chat_record(0, "mri", text=EVIL, gpt4_answer=EVIL, image="0.jpg")]
    questions = write_chat(tmp_path / "chat", records)

    def says(body: Mapping[str, Any], number: int) -> Any:
        return completion(f"8 7\n{EVIL}" if is_for_judge(body) else EVIL)

    with StubEndpoint(says, models=("evil</title><script>1</script>",)) as stub:
        words = ["--questions", str(questions), "--out", str(tmp_path / "run"), "--url", stub.url]
        done = galen("evaluate", "chat", *words)
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<script" not in shown
    assert "<img src=x" not in shown
    assert shown.count("</style>") == shown.count("</title>") == 1
    assert shown.count("&lt;script&gt;document") == 4  # question, reference, answer, explanation
    assert "default-src 'none'" in shown


@pytest.mark.parametrize("begins", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_no_cell_is_a_formula(begins: str, tmp_path: Path):
    write_csv(tmp_path / "x.csv", [{"answer": begins, "value": -0.5}, {"more, of it": 'a "b"\nc'}])
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["answer", "value", "more, of it"],
        [f"'{begins}", "-0.5", ""],
        ["", "", 'a "b"\nc'],
    ]


def test_questions_are_exported_with_their_values(data: Path, questions: Path, tmp_path: Path):
    records = json.loads((data / "test.json").read_text("utf-8"))
    records.append(question("=1+1", "Q", "A"))
    (data / "test.json").write_text(json.dumps(records), "utf-8")
    folder = run(data, tmp_path / "run", answer="=HYPERLINK(1)")
    done = report(folder, "--gt", data / "test.json", "--csv", tmp_path / "items.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21
    assert {row["answer"] for row in rows} == {"'=HYPERLINK(1)"}
    assert rows[-1]["id"] == "'=1+1"
    assert rows[0]["standard-v1/open recall"] == "0.0"

    judged = judged_run(questions, tmp_path / "judged")
    assert report(judged, "--gt", questions, "--csv", tmp_path / "j.csv").returncode == 0
    with (tmp_path / "j.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["reference_score"], row["model_score"]) == ("10.0", "5.0")
    assert "reference first: Well." in row["judge"]


def test_a_plot_has_room_for_its_highest_interval():
    assert plot_of([]).most == 100
    assert filters_of(["b", "a", "b"])[1].num == 2
    assert len(filters_of(str(number) for number in range(99))) == 24


# ------------------------------------------------------------------------------------ compared


FIRST = {
    "engine": "transformers",
    "image_recipe": {"shortest_edge_px": 336, "crop_width_px": 336, "crop_height_px": 336},
    "provenance": {"checkpoint_fingerprint": "a" * 64, "template_sha256": "b" * 64},
}


def compare(first: Path, second: Path, *words: str) -> Any:
    return galen("evaluate", "compare", str(first), str(second), *words)


def test_receipts_keep_what_the_endpoint_tells_of_the_model(data: Path, tmp_path: Path):
    receipt = json.loads((run(data, tmp_path / "run", **FIRST) / "receipt.json").read_text("utf-8"))
    assert receipt["model_as_told"]["provenance"]["checkpoint_fingerprint"] == "a" * 64
    assert receipt["model_facts"]["image_recipe"]["crop_width_px"] == 336
    assert receipt["metric_versions"] == ["legacy-v1", "standard-v1"]
    shown = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "checkpoint_fingerprint" in shown
    assert "a" * 64 in shown


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"provenance": {**FIRST["provenance"], "checkpoint_fingerprint": "c"}}, "checkpoint"),
        ({"provenance": {**FIRST["provenance"], "template_sha256": "c"}}, "template_sha256"),
        ({"image_recipe": None}, "image_recipe"),
    ],
)
def test_a_model_that_changed_under_its_name_is_not_compared(
    data: Path, tmp_path: Path, change: dict[str, Any], name: str
):
    first = run(data, tmp_path / "first", **FIRST)
    second = run(data, tmp_path / "second", answer="no", **(FIRST | change))
    done = compare(first, second)
    assert done.returncode == 1
    assert f"both name the model 'stub', but its {name}" in done.stderr
    done = compare(first, second, "--changed-model")
    assert done.returncode == 0, done.stderr
    assert name in done.stderr


def test_two_models_are_compared_and_what_else_differs_is_said(data: Path, tmp_path: Path):
    first = run(data, tmp_path / "first", **FIRST)
    told = {"engine": "vllm", "provenance": {"checkpoint_fingerprint": "c" * 64}}
    second = run(data, tmp_path / "second", model="other", answer="no", **told)
    done = compare(first, second)
    assert done.returncode == 0, done.stderr
    assert 'engine: "transformers", then "vllm"' in done.stderr
    assert "image_recipe: " in done.stderr
    found = json.loads(compare(first, second, "--json").stdout)
    assert found["differs"]["model"] == ["stub", "other"]
    assert found["metrics"]["standard-v1/closed accuracy"]["num"] == 8
    same = json.loads(compare(first, first, "--json").stdout)
    assert same["differs"] == {}


def test_other_versions_of_the_metrics_are_not_compared(data: Path, tmp_path: Path):
    first = run(data, tmp_path / "first")
    receipt = json.loads((first / "receipt.json").read_text("utf-8"))
    receipt["metric_versions"] = ["legacy-v1", "standard-v2"]
    (tmp_path / "second.json").write_text(json.dumps(receipt), "utf-8")
    done = compare(first, tmp_path / "second.json")
    assert done.returncode == 1
    assert "metric_versions differ" in done.stderr
