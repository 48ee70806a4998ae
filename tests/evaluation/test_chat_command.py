"""The judged medical chat as one command, against real servers that are killed and misbehave."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT, galen
from tests.evaluation.chat_files import chat_record, fair, is_for_judge, write_chat
from tests.support.stub_endpoint import StubEndpoint, completion, text_of
from tests.support.waiting import wait_until

NUM = 8


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    domains = ("mri", "ct_scan", "gross", "chest_xray")
    records = [chat_record(n, domains[n % 4], domains[(n + 1) % 4]) for n in range(NUM)]
    return write_chat(tmp_path / "chat", records)


def words(questions: Path, out: Path, url: str, *more: str) -> list[str]:
    named = ["--questions", str(questions), "--out", str(out), "--url", url]
    return ["evaluate", "chat", *named, *more]


def receipt_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "receipt.json").read_text("utf-8"))


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def num_for_judge(asked: Sequence[Mapping[str, Any]]) -> int:
    return sum(is_for_judge(body) for body in asked)


def test_one_command_asks_judges_and_reports(questions: Path, tmp_path: Path):
    out = tmp_path / "run"
    with StubEndpoint(fair) as model, StubEndpoint(fair, models=("judge",)) as judge:
        done = galen(*words(questions, out, model.url, "--judge-url", judge.url, "--swap"))
        assert done.returncode == 0, done.stderr
        assert (len(model.asked), num_for_judge(model.asked)) == (NUM, 0)
        assert (len(judge.asked), num_for_judge(judge.asked)) == (2 * NUM, 2 * NUM)
        again = galen(*words(questions, out, model.url, "--judge-url", judge.url, "--swap"))
        assert len(model.asked) + len(judge.asked) == 3 * NUM
    assert again.stdout == done.stdout
    assert f"16 questions with their answers go to {judge.url} (judge)" in done.stderr
    sent = model.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert sent.startswith("data:image/jpeg;base64,")
    assert model.asked[0]["max_tokens"] == 1024

    receipt = receipt_in(out)
    assert (receipt["status"], receipt["kind"]) == ("complete", "chat")
    assert (receipt["model"], receipt["judge"]) == ("stub", "judge")
    legacy, standard = receipt["metrics"]["legacy-v1"], receipt["metrics"]["standard-v1"]
    assert legacy["all"]["pred_relative_score"] == standard["all"]["relative_score"] == 50.0
    assert legacy["gross"]["data_size"] == 2  # the other domain of two comes before it
    assert standard["gross"]["data_size"] == 4
    assert {"conversation", "detailed_description"} < legacy.keys()
    assert all(len(line["answer_sha256"]) == 64 for line in receipt["items"])
    assert "Said" not in json.dumps(receipt)
    report = (out / "report.html").read_text("utf-8")
    assert report.count("Judge, model first") == report.count("Judge, reference first") == NUM
    assert report.count("data:image/jpeg;base64,") == NUM


@pytest.mark.parametrize(
    ("file", "num", "stop", "code"),
    [
        ("answers.jsonl", 3, signal.SIGKILL, -9),
        ("replies.jsonl", 3, signal.SIGKILL, -9),
        ("answers.jsonl", 3, signal.SIGINT, 130),
        ("replies.jsonl", 3, signal.SIGINT, 130),
    ],
)
def test_stopped_in_either_phase_it_goes_on(
    questions: Path, tmp_path: Path, file: str, num: int, stop: signal.Signals, code: int
):
    out, held = tmp_path / "run", threading.Event()
    is_judging = file == "replies.jsonl"

    def some(body: Mapping[str, Any], number: int) -> Response:
        if number >= num + (NUM if is_judging else 0):
            held.wait(60)
        return fair(body, number)

    with StubEndpoint(some) as stub:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words(questions, out, stub.url)],
            cwd=ROOT,
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        with process:
            wait_until(lambda: lines_in(out / file) >= num, "records", 60)
            os.kill(process.pid, stop)
            _, said = process.communicate(timeout=30)
        held.set()
    assert process.returncode == code
    assert "Traceback" not in said
    kept = lines_in(out / "answers.jsonl"), lines_in(out / "replies.jsonl")
    assert kept[is_judging] >= num

    with StubEndpoint(fair) as stub:
        done = galen(*words(questions, out, stub.url))
        assert done.returncode == 0, done.stderr
        assert num_for_judge(stub.asked) == NUM - kept[1]
        assert len(stub.asked) == 2 * NUM - sum(kept)
    with StubEndpoint(fair) as stub:
        whole = galen(*words(questions, tmp_path / "whole", stub.url))
    assert whole.stdout == done.stdout


def test_what_is_unscored_is_asked_again_by_the_same_command(questions: Path, tmp_path: Path):
    def refuses(body: Mapping[str, Any], number: int) -> Response:
        if text_of(body) == "What is seen 3?":
            return JSONResponse({"error": {"message": "x", "code": "image_too_large"}}, 400)
        return fair(body, number)

    out = tmp_path / "run"
    with StubEndpoint(refuses) as stub:
        done = galen(*words(questions, out, stub.url))
        assert num_for_judge(stub.asked) == NUM - 1
    assert done.returncode == 3
    assert "1 questions have no answer" in done.stderr
    assert f"1 of {NUM} questions are unscored" in done.stderr
    receipt = receipt_in(out)
    assert (receipt["status"], receipt["unscored"]) == ("incomplete", ["3"])
    assert list(receipt["failed"]) == ["3"]

    with StubEndpoint(fair) as stub:
        done = galen(*words(questions, out, stub.url))
        assert done.returncode == 0, done.stderr
        assert len(stub.asked) == 2
    assert receipt_in(out)["status"] == "complete"


def test_a_score_belongs_to_its_answer(questions: Path, tmp_path: Path):
    with StubEndpoint(fair) as stub:
        assert galen(*words(questions, tmp_path / "run", stub.url)).returncode == 0
        file = tmp_path / "run" / "answers.jsonl"
        file.write_text(file.read_text("utf-8").replace("Said 2.", "Said more."), "utf-8")
        done = galen(*words(questions, tmp_path / "run", stub.url))
    assert done.returncode == 1
    assert "the judge has scored another answer to question '2'" in done.stderr


@pytest.mark.parametrize("more", [["--swap"], ["--seed", "4"], ["--limit", "3"]])
def test_another_way_of_asking_is_another_run(questions: Path, tmp_path: Path, more: list[str]):
    with StubEndpoint(fair) as stub:
        assert galen(*words(questions, tmp_path / "run", stub.url)).returncode == 0
        done = galen(*words(questions, tmp_path / "run", stub.url, *more))
        assert done.returncode == 2
        assert "holds another run" in done.stderr
        done = galen(*words(questions, tmp_path / "run", stub.url, *more, "--new-run"))
        assert done.returncode == 0, done.stderr


def test_other_weights_of_the_same_name_are_another_run(questions: Path, tmp_path: Path):
    for told, code in (("a" * 64, 0), ("a" * 64, 0), ("b" * 64, 2)):
        with StubEndpoint(fair, told={"provenance": {"checkpoint_fingerprint": told}}) as stub:
            done = galen(*words(questions, tmp_path / "run", stub.url))
        assert done.returncode == code, done.stderr
    assert "model_facts was" in done.stderr


def test_nothing_is_asked_before_all_that_leaves_is_allowed(questions: Path, tmp_path: Path):
    away = ["--judge-url", "http://judge.invalid/v1", "--judge", "m"]
    with StubEndpoint(fair) as stub:
        done = galen(*words(questions, tmp_path / "run", stub.url, *away))
        assert done.returncode == 2
        assert "no image, would be sent to judge.invalid" in done.stderr
        done = galen(*words(questions, tmp_path / "run", stub.url, "--most-cost", "1"))
        assert done.returncode == 2
        assert "--most-cost needs --price-prompt" in done.stderr

        named = [chat_record(0, gpt4_answer="Mrs. Miller's CT")]
        file = write_chat(tmp_path / "named", named)
        done = galen(*words(file, tmp_path / "run", stub.url, *away, "--allow-external"))
        assert done.returncode == 1
        assert "a name behind a title in 1, such as 0" in done.stderr
        assert not stub.asked


def test_an_answer_that_seems_to_name_a_patient_stays_here(questions: Path, tmp_path: Path):
    away = ["--judge-url", "http://judge.invalid/v1", "--judge", "m", "--allow-external"]
    with StubEndpoint(lambda body, number: completion("Mr. Smith, MRN 123456.")) as stub:
        done = galen(*words(questions, tmp_path / "run", stub.url, *away))
    assert done.returncode == 1
    assert f"a record number in {NUM}, such as 0" in done.stderr
    assert lines_in(tmp_path / "run" / "answers.jsonl") == NUM
    assert not (tmp_path / "run" / "replies.jsonl").exists()


def test_a_ceiling_holds_over_calls(questions: Path, tmp_path: Path):
    prices = ["--price-completion", "1000000", "--judge-max-tokens", "10", "--at-once", "1"]
    with StubEndpoint(fair) as stub:  # two tokens each, 2.00 a question, 10.00 at stake
        done = galen(*words(questions, tmp_path / "run", stub.url, *prices, "--most-cost", "13.5"))
        assert done.returncode == 3
        assert num_for_judge(stub.asked) == 2
        done = galen(*words(questions, tmp_path / "run", stub.url, *prices, "--most-cost", "100"))
        assert done.returncode == 0, done.stderr
        assert num_for_judge(stub.asked) == NUM
    assert receipt_in(tmp_path / "run")["spent"] == pytest.approx(16.0)


def test_a_key_goes_to_its_own_host_only(questions: Path, tmp_path: Path):
    keys = {"OPENAI_API_KEY": "sk-model"}
    with StubEndpoint(fair) as model, StubEndpoint(fair) as judge:
        command = words(questions, tmp_path / "run", model.url, "--judge-url", judge.url)
        assert galen(*command, variables=keys).returncode == 0
        assert (model.keys, judge.keys) == ({"sk-model"}, {"unused"})
        keys["JUDGE_API_KEY"] = "sk-judge"
        assert galen(*command, "--new-run", variables=keys).returncode == 0
        assert judge.keys == {"unused", "sk-judge"}


def test_it_is_listed_and_explained():
    assert "Judged medical chat" in galen("evaluate", "benchmarks").stdout
    shown = galen("evaluate", "chat", "--help").stdout
    assert "galen evaluate chat --model llava-med --questions qa50.jsonl" in shown
