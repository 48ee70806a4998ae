"""`galen evaluate` as a user calls it, against a real server that misbehaves on demand."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT, galen
from tests.evaluation.vqa_files import question, write_answers, write_set
from tests.support.stub_endpoint import StubEndpoint, completion, full, text_of
from tests.support.waiting import wait_until


def answers_in(run: Path) -> list[Mapping[str, Any]]:
    text = (run / "answers.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def says(body: Mapping[str, Any], number: int) -> Response:
    """Right for most: each closed answer is yes, of which half are."""
    asked = int(text_of(body).split()[1].rstrip("?"))
    return completion("yes" if asked % 5 in (1, 3) else "the left lung")


def run(data: Path, out: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return galen("evaluate", "folder", "--data", str(data), "--out", str(out), "--url", url, *words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "data")


def test_a_set_is_asked_scored_kept_and_reported(data: Path, tmp_path: Path):
    with StubEndpoint(says) as stub:
        done = run(data, tmp_path / "run", stub.url)
        assert done.returncode == 0, done.stderr
        assert len(stub.asked) == 20
    assert "closed accuracy  standard-v1  50.00" in " ".join(done.stdout.split()).replace(
        "closed accuracy standard-v1 50.00", "closed accuracy  standard-v1  50.00"
    )
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text("utf-8"))
    assert receipt["status"] == "complete"
    assert receipt["model"] == "stub"
    assert receipt["metrics"]["standard-v1/open recall"]["mean"] == 1.0
    assert {line["question_id"] for line in answers_in(tmp_path / "run")} == {
        str(number) for number in range(20)
    }
    parts = stub.asked[0]["messages"][0]["content"]
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
    # Questions about one image come one behind the other, though the file has them apart.
    images = [body["messages"][0]["content"][0]["image_url"]["url"] for body in stub.asked]
    assert len(set(images[:8])) <= 3


def test_killed_at_any_moment_it_asks_only_what_has_no_answer(data: Path, tmp_path: Path):
    out, held = tmp_path / "run", threading.Event()

    def some(body: Mapping[str, Any], number: int) -> Response:
        if number >= 7:
            held.wait(60)
        return says(body, number)

    command = ["evaluate", "folder", "--data", str(data), "--out", str(out), "--at-once", "2"]
    with StubEndpoint(some) as stub:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", *command, "--url", stub.url],
            cwd=ROOT,
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with process:
            wait_until(lambda: (out / "answers.jsonl").read_bytes().count(b"\n") >= 7, "7", 60)
            os.kill(process.pid, signal.SIGKILL)
        held.set()
    before = answers_in(out)
    with (out / "answers.jsonl").open("ab") as file:
        file.write(b'{"question_id": "99", "te')  # and power went in the middle of a line

    with StubEndpoint(says) as stub:
        done = run(data, out, stub.url)
        assert done.returncode == 0, done.stderr
        assert len(stub.asked) == 20 - len(before)
    after = answers_in(out)
    assert after[: len(before)] == before
    assert sorted(int(line["question_id"]) for line in after) == list(range(20))

    with StubEndpoint(says) as stub:
        whole = run(data, tmp_path / "whole", stub.url)
    assert whole.stdout == done.stdout


def test_ctrl_c_says_that_the_same_command_goes_on(data: Path, tmp_path: Path):
    held = threading.Event()

    def wait(body: Mapping[str, Any], number: int) -> Response:
        held.wait(60)
        return says(body, number)

    command = ["evaluate", "folder", "--data", str(data), "--out", str(tmp_path / "run")]
    with StubEndpoint(wait) as stub:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", *command, "--url", stub.url],
            cwd=ROOT,
            env=child_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        with process:
            wait_until(lambda: stub.asked, "a question", 60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        held.set()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "galen: stopped; the same command goes on"
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words", [["--temperature", "0.5"], ["--max-tokens", "9"], ["--limit", "3"], ["--seed", "4"]]
)
def test_a_run_of_other_settings_is_not_gone_on_with(data: Path, tmp_path: Path, words: list[str]):
    with StubEndpoint(says) as stub:
        assert run(data, tmp_path / "run", stub.url).returncode == 0
        before = answers_in(tmp_path / "run")
        done = run(data, tmp_path / "run", stub.url, *words)
        assert done.returncode == 2
        assert "holds another run" in done.stderr
        assert answers_in(tmp_path / "run") == before
        done = run(data, tmp_path / "run", stub.url, *words, "--new-run")
        assert done.returncode == 0
        assert answers_in(tmp_path / "run") != before


def test_what_has_no_answer_makes_the_run_incomplete(data: Path, tmp_path: Path):
    (data / "images" / "1.png").write_bytes(b"no image")
    (data / "images" / "2.png").unlink()
    (data / "images" / "2.png").symlink_to("/etc/hostname")

    def refuses(body: Mapping[str, Any], number: int) -> Response:
        if "Question 3?" in text_of(body):
            return JSONResponse({"error": {"message": "x", "code": "image_too_large"}}, 400)
        return says(body, number)

    with StubEndpoint(refuses) as stub:
        done = run(data, tmp_path / "run", stub.url)
    assert done.returncode == 3
    assert "11 questions have no answer" in done.stderr
    assert "lies outside" in done.stderr
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text("utf-8"))
    assert (receipt["status"], receipt["num_unanswered"]) == ("incomplete", 11)

    other = tmp_path / "other"
    with StubEndpoint(refuses) as stub:
        run(data, other, stub.url)
    done = galen("evaluate", "compare", str(tmp_path / "run"), str(other))
    assert done.returncode == 1
    assert "not comparable: the first is incomplete" in done.stderr


def test_a_storm_of_refusals_loses_no_answer(data: Path, tmp_path: Path):
    def stormy(body: Mapping[str, Any], number: int) -> Response:
        return full("0") if number % 3 else says(body, number)

    with StubEndpoint(stormy) as stub:
        done = run(data, tmp_path / "run", stub.url)
    assert done.returncode == 0, done.stderr
    assert len(answers_in(tmp_path / "run")) == 20


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["folder", "--data", "nowhere"], 1, "nowhere/test.json cannot be read"),
        (["vqa", "--data", "nowhere"], 1, "no benchmark 'vqa'; take one of vqa-rad"),
        (["folder", "--data", "DATA", "--url", "nonsense"], 2, "write http://HOST:PORT/v1"),
        (["folder", "--data", "DATA", "--url", "http://example.com/v1"], 2, "--allow-external"),
        (["folder", "--data", "DATA", "--url", "http://127.0.0.1:1/v1"], 1, "cannot be reached"),
        (["folder", "--data", "DATA", "--at-once", "0"], 2, "at-once"),
        (["compare", "nowhere", "nowhere"], 1, "nowhere cannot be read"),
    ],
)
def test_a_mistake_is_one_line(data: Path, words: list[str], code: int, said: str):
    done = galen("evaluate", *[str(data) if word == "DATA" else word for word in words])
    assert done.returncode == code
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_served_is_said_before_anything_is_asked(data: Path, tmp_path: Path):
    with StubEndpoint(says, models=("a", "b")) as stub:
        done = run(data, tmp_path / "run", stub.url)
        assert "serves a, b; choose one with --model" in done.stderr
        done = run(data, tmp_path / "run", stub.url, "--model", "c")
        assert done.returncode == 1
        assert "knows no model 'c'" in done.stderr
        assert not stub.asked


def test_a_folder_that_holds_something_else_is_left_alone(data: Path, tmp_path: Path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    with StubEndpoint(says) as stub:
        for words in ([], ["--new-run"]):
            done = run(data, out, stub.url, *words)
            assert done.returncode == 1
            assert "is no evaluation" in done.stderr
    assert (out / "thesis.txt").read_text() == "x"


def test_files_of_answers_are_written_and_scored_one_by_one(data: Path, tmp_path: Path):
    answers = tmp_path / "answers.jsonl"
    command = ["evaluate", "answer", str(data / "test.json"), "--images", str(data / "images")]
    with StubEndpoint(says) as stub:
        done = galen(*command, "--out", str(answers), "--url", stub.url)
    assert done.returncode == 0, done.stderr

    scored = ["evaluate", "score", "--gt", str(data / "test.json"), "--pred", str(answers)]
    done = galen(*scored, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["num_items"] == 20
    assert found["metrics"]["legacy-v1/open recall"]["mean"] == 1.0

    write_answers(answers, {"0": "left lung", "77": "x"})
    done = galen(*scored)
    assert done.returncode == 3
    assert "19 questions have no answer" in done.stderr
    assert "answers belong to no question: '77'" in done.stderr


def test_a_report_shows_answers_as_text(data: Path, tmp_path: Path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\"'>"
    records = json.loads((data / "test.json").read_text("utf-8"))
    records.append(question(evil, evil, evil, image="0.png"))
    (data / "test.json").write_text(json.dumps(records), "utf-8")
    with StubEndpoint(lambda body, number: completion(evil)) as stub:
        done = run(data, tmp_path / "run", stub.url)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<script" not in report
    assert "onerror=alert(2)>" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert "default-src &#39;none&#39;" in report or "default-src 'none'" in report
    assert report.count("data:image/jpeg;base64,") == 4
    assert "http://" not in report.replace("http://127.0.0.1", "")


def test_a_new_run_removes_no_file_of_others(data: Path, tmp_path: Path):
    training = tmp_path / "tuned.training"
    training.mkdir()
    (training / "run.json").write_text('{"recipe": {}}')
    (training / "checkpoint").mkdir()
    with StubEndpoint(says) as stub:
        done = run(data, training, stub.url, "--new-run")
        assert done.returncode == 1
        assert "holds something else than this" in done.stderr
        assert (training / "checkpoint").is_dir()

        assert run(data, tmp_path / "run", stub.url).returncode == 0
        (tmp_path / "run" / "notes.txt").write_text("mine")
        assert run(data, tmp_path / "run", stub.url, "--seed", "1", "--new-run").returncode == 0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_other_images_are_another_run(data: Path, tmp_path: Path):
    with StubEndpoint(says) as stub:
        assert run(data, tmp_path / "run", stub.url).returncode == 0
        (data / "images" / "1.png").write_bytes((data / "images" / "2.png").read_bytes())
        done = run(data, tmp_path / "run", stub.url)
    assert done.returncode == 2
    assert "images_sha256 was" in done.stderr


def test_answers_of_two_models_do_not_share_a_file(data: Path, tmp_path: Path):
    answers = tmp_path / "answers.jsonl"
    command = ["evaluate", "answer", str(data / "test.json"), "--images", str(data / "images")]
    with StubEndpoint(says, models=("a", "b")) as stub:
        words = ["--out", str(answers), "--url", stub.url, "--model"]
        assert galen(*command, *words, "a", "--limit", "3").returncode == 0
        done = galen(*command, *words, "b")
    assert done.returncode == 1
    assert "holds answers of 'a', and 'b' would be added" in done.stderr


def test_an_answer_of_any_characters_is_kept(data: Path, tmp_path: Path):
    with StubEndpoint(lambda body, number: completion("\ud800 \0 \u202e left")) as stub:
        done = run(data, tmp_path / "run", stub.url)
    assert done.returncode == 0, done.stderr
    assert len(answers_in(tmp_path / "run")) == 20
    assert (tmp_path / "run" / "report.html").is_file()
