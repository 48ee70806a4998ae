"""Workers cordoned and drained while `galen up` serves."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.end_to_end.administered import LONG_ANSWER, Running, administered_up
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with administered_up() as running:
        yield running


def test_cordoned_worker_claims_nothing_until_it_may_again(running: Running) -> None:
    streaming = running.begin_streaming("two")
    assert running.command("workers", "cordon", running.worker_ids("two")[0]).returncode == 0
    wait_until(lambda: running.state_of("two") == "cordoned", "the cordon", 3)
    waiting = running.begin("two", "[[n=1]]")
    code, rest, _ = running.ended(streaming)  # what runs goes on

    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.5)
    running.http.post(f"{running.url}/admin/workers/{running.worker_ids('two')[0]}/uncordon")
    assert running.ended(waiting)[:2] == (0, "zq0000 \n")


def test_engine_that_dies_cordoned_comes_back_cordoned(running: Running) -> None:
    [worker_id] = running.worker_ids("two")
    running.http.post(f"{running.url}/admin/workers/{worker_id}/cordon")
    wait_until(lambda: running.state_of("two") == "cordoned", "the cordon", 3)
    parent = next(p for p in running.up.family() if p.cmdline()[:1] == ["galen worker [two]"])
    parent.children()[0].kill()
    wait_until(lambda: running.worker_ids("two") not in ([], [worker_id]), "the next engine", 10)

    assert running.state_of("two") == "cordoned"
    running.http.post(f"{running.url}/admin/workers/{running.worker_ids('two')[0]}/uncordon")
    wait_until(lambda: running.state_of("two") == "ready", "the end of the cordon", 3)


def test_list_says_how_many_workers_of_a_layout_were_drained(running: Running) -> None:
    loading = ("models", "load", "--engine", "fake", "--name", "twice", "--workers", "2")
    assert "fake engine, workers: 2; set: --slots 1" in running.command(*loading).stdout
    wait_until(lambda: len(running.worker_ids("twice")) == 2, "both workers", 20)
    assert running.command("workers", "drain", running.worker_ids("twice")[0]).returncode == 0
    said = "workers: 2; set: --slots 1; 1 of 2 workers drained"
    wait_until(lambda: said in running.command("models", "list").stdout, "the truth", 30)
    running.command("models", "unload", "twice")


def test_drained_worker_finishes_and_is_not_started_again(running: Running) -> None:
    running.load("third")
    client = running.begin_streaming("third")
    [worker_id] = running.worker_ids("third")
    assert running.command("workers", "drain", worker_id, "--timeout", "20").returncode == 0
    code, rest, _ = running.ended(client)

    assert (code, "zq0000 " + rest) == (0, LONG_ANSWER + "\n")
    running.up.line_with("was drained; it is not started again")
    wait_until(lambda: running.worker_ids("third") == [], "the end of the worker", 5)
    again = ("models", "load", "--engine", "fake", "--name", "third")
    # refused as long as its host has not seen the process end
    wait_until(lambda: running.command(*again).returncode == 0, "another load of it", 20)
    running.command("models", "unload", "third")
