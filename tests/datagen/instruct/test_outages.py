"""An endpoint that is away costs no figure a try; one that refuses everything is soon left."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from tests.datagen.instruct.figures import CONVERSATION, instruct, lines, record, write
from tests.support.stub_endpoint import StubEndpoint, completion


@pytest.mark.parametrize(
    ("away", "said"),
    [
        (lambda: JSONResponse({"error": {"message": "x"}}, 500), "HTTP 500"),
        (lambda: HTMLResponse("<h1>proxy</h1>"), "no chat completion"),
        (lambda: JSONResponse({"error": {"message": "x"}}, 402), "HTTP 402"),
    ],
)
def test_outage_costs_no_try(tmp_path: Path, away: Callable[[], Response], said: str):
    source = write(tmp_path / "f", [record(number) for number in range(3)])
    is_away = True
    with StubEndpoint(lambda body, n: away() if is_away else completion(CONVERSATION)) as stub:
        words = (source, "--out", tmp_path / "out", "--url", stub.url, "--tries", 1)
        first = instruct(*words, "--structured", "off")
        assert first.returncode == 3
        assert "3 figures have no reply" in first.stderr
        assert said in first.stderr
        assert "no try was counted" in first.stderr
        assert (tmp_path / "out.failures.jsonl").read_text() == ""
        is_away = False
        assert instruct(*words, "--structured", "off").returncode == 0
    assert len(lines(tmp_path / "out")) == 3


def test_lost_connection_costs_no_try_and_says_how_to_go_on(tmp_path: Path):
    source = write(tmp_path / "f", [record(number) for number in range(3)])
    with StubEndpoint(lambda body, n: completion(CONVERSATION)) as stub:
        port = stub.port
    words = (source, "--out", tmp_path / "out", "--url", stub.url, "--tries", 1, "--model", "stub")
    away = instruct(*words)
    assert away.returncode == 1
    assert "cannot be reached" in away.stderr
    assert "the same command goes on" in away.stderr
    assert json.loads((tmp_path / "out.report.json").read_text())["status"] != "complete"
    with StubEndpoint(lambda body, n: completion(CONVERSATION), port=port):
        assert instruct(*words).returncode == 0
    assert len(lines(tmp_path / "out")) == 3


def test_endpoint_that_refuses_everything_is_left_after_fifty(tmp_path: Path):
    source = write(tmp_path / "f", [record(number) for number in range(120)])
    with StubEndpoint(lambda body, n: completion("I cannot see the image.")) as stub:
        words = (source, "--out", tmp_path / "out", "--url", stub.url, "--structured", "off")
        done = instruct(*words, "--at-once", 4)
        assert 50 <= len(stub.asked) < 54
    assert done.returncode == 3
    assert "50 figures in a row gave no conversation, the last one: no conversation" in done.stderr
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["not_asked"] == 120 - len(stub.asked)


def test_temperature_that_the_model_does_not_take_ends_all_and_costs_no_try(tmp_path: Path):
    error = {"message": "x", "param": "temperature", "code": "unsupported_value"}
    source = write(tmp_path / "f", [record(number) for number in range(3)])
    with StubEndpoint(lambda body, n: JSONResponse({"error": error}, 400)) as stub:
        done = instruct(source, "--out", tmp_path / "out", "--url", stub.url, "--at-once", 1)
        assert len(stub.asked) == 1
    assert done.returncode == 1
    assert "--temperature" in done.stderr
    assert (tmp_path / "out.failures.jsonl").read_text() == ""


def test_run_that_made_nothing_gives_way_to_another(tmp_path: Path):
    source = write(tmp_path / "f", [record(1)])
    with StubEndpoint(lambda body, n: completion(CONVERSATION)) as stub:
        words = (source, "--out", tmp_path / "out", "--url", stub.url)
        assert instruct(*words, "--model", "typo").returncode in {0, 1}
        (tmp_path / "out").unlink(missing_ok=True)
        assert (tmp_path / "out.run.json").exists()
        done = instruct(*words, "--model", "stub")
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "out")) == 1


def test_one_request_that_is_forbidden_does_not_end_a_run(tmp_path: Path):
    source = write(tmp_path / "f", [record(number) for number in range(4)])

    def answer(body: Mapping[str, Any], n: int) -> Response:
        if "Scan number 2" in json.dumps(body):
            return JSONResponse({"error": {"message": "x"}}, 403)
        return completion(CONVERSATION)

    with StubEndpoint(answer) as stub:
        words = (source, "--out", tmp_path / "out", "--url", stub.url, "--at-once", 1)
        done = instruct(*words, "--structured", "off")
    assert done.returncode == 3
    assert "does not allow this request (HTTP 403)" in done.stderr
    assert len(lines(tmp_path / "out")) == 3
