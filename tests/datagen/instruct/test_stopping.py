"""Killed at any moment, the same command loses nothing, doubles nothing, and asks nothing again."""

import random
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from datagen.figures import DOMAINS
from tests.datagen.instruct.figures import (
    CONVERSATION,
    command,
    environment,
    instruct,
    lines,
    record,
    write,
)
from tests.datagen.instruct.test_command import number_in
from tests.support.measurements import Measurements
from tests.support.program import ROOT
from tests.support.stub_endpoint import StubEndpoint, completion, full
from tests.support.waiting import wait_until


class Slow:
    """An endpoint that takes its time, and now and then has no room; counts who was asked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._never = threading.Event()
        self.asked: Counter[int] = Counter()

    def __call__(self, body: Mapping[str, Any], number: int) -> Response:
        if number % 17 == 5:
            return full("0")
        self._never.wait(self._seconds)
        self.asked[number_in(body)] += 1
        return completion(f"{CONVERSATION}\n\nUser: {number_in(body)}?\n\nAssistant: Yes.")


@pytest.mark.parametrize("num_kills", [6, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_killed_at_random_moments_it_loses_and_doubles_nothing(
    tmp_path: Path, num_kills: int, measured: Measurements
):
    draw = random.Random(num_kills)
    num_figures, at_once = 20 * num_kills, 4
    given = [record(number, DOMAINS[number % 5]) for number in range(num_figures)]
    source, out = write(tmp_path / "figures.jsonl", given), tmp_path / "out.jsonl"
    slow = Slow(0.02)
    kept_before: list[str] = []
    with StubEndpoint(slow) as stub:
        words = (source, "--out", out, "--url", stub.url, "--model", "stub", "--at-once", at_once)
        for number in range(num_kills):
            enough = len(stub.asked) + draw.randrange(0, 2 * num_figures // num_kills - 4)
            process = subprocess.Popen(
                command(*words), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
            )
            started = out.exists() or number == 0
            wait_until(
                lambda enough=enough, process=process: (
                    len(stub.asked) > enough or process.poll() is not None
                ),
                "some answers", 60,
            )  # fmt: skip
            process.kill()
            process.wait()
            assert started
            whole = out.read_bytes().rpartition(b"\n")[0].splitlines() if out.exists() else []
            kept = [line.decode() for line in whole]
            assert kept[: len(kept_before)] == kept_before  # nothing on the disk is touched
            kept_before = kept
        done = instruct(*words, timeout=120)
        assert done.returncode == 0, done.stderr
        asked_until_done = len(stub.asked)
        assert instruct(*words).returncode == 0
        assert len(stub.asked) == asked_until_done
    made = [each["pair_id"] for each in lines(out)]
    assert sorted(made) == [each["pair_id"] for each in given]
    again = sum(slow.asked.values()) - num_figures
    assert again <= num_kills * at_once  # what was under way, at most
    measured.note(f"instruct, {num_kills} kills", figures=num_figures, lost=0, doubled=0,
                  asked_again=again)  # fmt: skip


def test_torn_last_line_is_asked_again_and_no_other(tmp_path: Path):
    source = write(tmp_path / "f", [record(number) for number in range(4)])
    out = tmp_path / "out"
    with StubEndpoint(lambda body, number: completion(CONVERSATION)) as stub:
        words = (source, "--out", out, "--url", stub.url, "--at-once", 1)
        instruct(*words)
        out.write_bytes(out.read_bytes()[:-7])
        assert instruct(*words).returncode == 0
    assert [number_in(body) for body in stub.asked] == [0, 1, 2, 3, 3]
    assert len(lines(out)) == 4


def test_second_process_on_one_output_is_refused(tmp_path: Path):
    source, out = write(tmp_path / "f", [record(number) for number in range(4)]), tmp_path / "out"
    over = threading.Event()

    def decide(body: Mapping[str, Any], number: int) -> Response:
        over.wait(60)
        return completion(CONVERSATION)

    with StubEndpoint(decide) as stub:
        words = (source, "--out", out, "--url", stub.url, "--model", "stub")
        first = subprocess.Popen(
            command(*words), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        wait_until(lambda: stub.asked, "its first question", 60)
        second = instruct(*words)
        over.set()
        assert first.wait(60) == 0
    assert second.returncode == 1
    assert "another process" in second.stderr
