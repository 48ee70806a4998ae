"""Batches that are forgotten, refused or unpriced: what is paid for is kept, and is paid once."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from tests.datagen.instruct.batch_stub import BatchStub, answered
from tests.datagen.instruct.figures import (
    CONVERSATION,
    command,
    environment,
    instruct,
    lines,
    record,
    write,
)
from tests.support.program import ROOT
from tests.support.stub_endpoint import StubEndpoint, completion
from tests.support.waiting import wait_until


@dataclass
class Bench:
    """A stub, and the words of a command that asks it about six figures."""

    batches: BatchStub
    stub: StubEndpoint
    source: Path
    out: Path

    @property
    def noted(self) -> Path:
        return self.out.with_name("out.batches.json")

    def words(self, *more: object) -> tuple[object, ...]:
        return (self.source, "--out", self.out, "--url", self.stub.url, "--tries", 1, *more)

    def run(self, *more: object) -> "subprocess.CompletedProcess[str]":
        return instruct(*self.words("--batch", *more))

    def begin_and_kill(self) -> None:
        """Leave a batch of five figures under way."""
        self.batches.is_running = True
        process = subprocess.Popen(
            command(*self.words("--batch")), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        wait_until(lambda: "batch-" in self.noted.read_text(), "a batch", 60)
        process.kill()
        process.wait()
        for each in self.batches.batches.values():
            each["status"] = "completed"
        self.batches.is_running = False


def answer(body: Mapping[str, Any], number: int) -> Response:
    if "max_tokens" in body:
        error = {"message": "x", "param": "max_tokens", "code": "unsupported_parameter"}
        return JSONResponse({"error": error}, 400)
    return completion(CONVERSATION)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    source = write(tmp_path / "figures.jsonl", [record(number) for number in range(6)])
    batches = BatchStub()
    with StubEndpoint(answer, more_routes=batches.routes) as stub:
        yield Bench(batches, stub, source, tmp_path / "out")


def test_batch_that_the_endpoint_forgot_is_asked_again_and_what_is_kept_stays(bench: Bench):
    bench.begin_and_kill()
    kept = bench.out.read_text()
    bench.batches.batches.clear()
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert "knows no batch 'batch-0'" in done.stderr
    assert "no model" not in done.stderr
    assert "asked again" in done.stderr
    assert bench.out.read_text().startswith(kept)
    assert len(lines(bench.out)) == 6
    assert not bench.noted.exists()


def test_results_that_are_gone_are_asked_for_again(bench: Bench):
    bench.begin_and_kill()
    del bench.batches.files["batch-0-out"]
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert "knows no file 'batch-0-out', with results of batch-0" in done.stderr
    assert len(lines(bench.out)) == 6


def test_endpoint_without_batches_loses_no_note(bench: Bench):
    bench.begin_and_kill()
    noted = bench.noted.read_text()
    with StubEndpoint(answer, port=0) as other:
        bench.noted.write_text(noted.replace(bench.stub.url, other.url))
        done = instruct(*bench.words("--batch", "--url", other.url))
    assert done.returncode == 1
    assert "knows no /batches" in done.stderr
    assert "the same command goes on" in done.stderr
    assert json.loads(bench.noted.read_text())[0]["batch_id"] == "batch-0"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ((), 2, "5 figures are under way in batches"),
        (("--new-run",), 2, "collect them first"),
        (("--batch", "--new-run"), 2, "collect them first"),
        (("--batch", "--url", "http://127.0.0.1:1/v1", "--model", "stub"), 1, "are under way at"),
    ],
)
def test_batches_under_way_are_collected_before_anything_is_paid_again(
    bench: Bench, more: tuple[object, ...], code: int, said: str
):
    bench.begin_and_kill()
    noted, num_asked = bench.noted.read_text(), len(bench.stub.asked)
    refused = instruct(*bench.words(*more))
    assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr
    assert bench.noted.read_text() == noted
    assert bench.run().returncode == 0
    assert len(lines(bench.out)) == 6
    assert len(bench.stub.asked) == num_asked
    assert len(bench.batches.sent) == 5


def test_damaged_note_is_no_reason_to_begin_anew(bench: Bench):
    bench.begin_and_kill()
    bench.noted.write_text("{")
    done = bench.run()
    assert done.returncode == 1
    assert "paid for" in done.stderr
    assert "--new-run" not in done.stderr
    assert len(lines(bench.out)) == 1


def test_replies_beyond_a_smaller_size_wait_for_a_larger_one(bench: Bench):
    bench.begin_and_kill()
    few = bench.run("--max-size", 2)
    assert few.returncode == 0, few.stderr
    assert "replies about 4 more figures" in few.stderr
    assert len(lines(bench.out)) == 2
    assert bench.run().returncode == 0
    assert len(lines(bench.out)) == 6
    assert len(bench.batches.sent) == 5


def test_replies_without_usage_cost_what_they_may_have_cost(bench: Bench):
    priced = ("--price-completion", 1_000_000, "--max-tokens", 3, "--most-cost", 100)
    done = bench.run(*priced)
    assert done.returncode == 0, done.stderr
    assert "cost 17.00" in done.stderr  # two told of the direct one, and five times three


def test_no_batch_is_made_behind_the_ceiling(bench: Bench):
    given = [record(0), record(1), record(2, fig_caption="Long. " * 20_000), record(3)]
    write(bench.source, given)
    done = bench.run("--price-prompt", 1_000_000, "--most-cost", 60_000)
    assert done.returncode == 3
    assert "might be spent" in done.stderr
    assert bench.batches.sent == ["00001_fig"]


def test_lines_without_an_answer_cost_no_try(bench: Bench):
    bench.batches.response = answered(status=500)
    done = bench.run()
    assert done.returncode == 3
    assert "5 figures have no reply: 5 HTTP 500, x; no try was counted" in done.stderr
    assert bench.out.with_name("out.failures.jsonl").read_text() == ""
    bench.batches.response = answered()
    assert bench.run().returncode == 0
    assert len(lines(bench.out)) == 6


def test_unusable_lines_of_a_batch_that_is_read_twice_cost_one_try(bench: Bench):
    bench.batches.response = answered("No.", prompt_tokens=3, completion_tokens=2, total_tokens=5)
    bench.begin_and_kill()
    noted = bench.noted.read_text()
    assert bench.run("--tries", 2).returncode == 3
    bench.noted.write_text(noted)  # as a kill before it was removed leaves it
    bench.batches.response = answered()
    done = bench.run("--tries", 2)
    assert done.returncode == 0, done.stderr
    assert len(lines(bench.out.with_name("out.failures.jsonl"))) == 5


def test_page_of_a_proxy_in_place_of_batches_is_waited_out(bench: Bench):
    bench.batches.is_away = True
    process = subprocess.Popen(
        command(*bench.words("--batch")), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    wait_until(bench.noted.exists, "the note of an upload", 60)
    bench.batches.is_away = False
    assert process.wait(60) == 0
    assert len(lines(bench.out)) == 6


def test_lines_use_the_names_that_the_endpoint_wants(bench: Bench):
    done = bench.run("--max-tokens", 77)
    assert done.returncode == 0, done.stderr
    bodies = [line["body"] for line in bench.batches.files["file-0"]]
    assert {body["max_completion_tokens"] for body in bodies} == {77}
    assert not [body for body in bodies if "max_tokens" in body]
