"""The parent's verdict on a dead engine, and its patience; most real deaths are in tests/faults."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from services.protocol.worker_directory import ALL_SUSPECT
from services.worker.exit_codes import EXIT_CANNOT_START, EXIT_LOOP_BROKEN
from services.worker.main import Death, Restarts, _verdict
from services.worker.progress_page import ProgressPage, ProgressSnapshot
from services.worker.settings import child_environment
from tests.support.waiting import wait_until


def snapshot(*admitting: str) -> ProgressSnapshot:
    return ProgressSnapshot(1.0, 1.0, 9, 3, "ready", "worker-1", admitting)


@pytest.mark.parametrize(
    ("admitting", "code", "hung", "reason", "suspects"),
    [
        ((), 70, False, "engine_crashed", (ALL_SUSPECT,)),
        (("a",), 70, False, "engine_crashed", ("a",)),
        (("a",), -signal.SIGSEGV, False, "engine_crashed", ("a",)),
        ((), -signal.SIGKILL, False, "engine_died", ()),
        (("a",), -signal.SIGKILL, False, "engine_died", ()),
        (("a",), -signal.SIGKILL, True, "engine_hung", ("a",)),
        ((), -signal.SIGKILL, True, "engine_hung", ()),
        (("a",), EXIT_LOOP_BROKEN, False, "handed_back", ()),
        ((), -signal.SIGTERM, False, "engine_died", ()),
    ],
)
def test_verdict_blames_what_was_being_admitted(
    admitting: tuple[str, ...],
    code: int,
    hung: bool,
    reason: str,
    suspects: tuple[str, ...],
) -> None:
    assert _verdict(snapshot(*admitting), code, hung=hung) == (reason, suspects)


IDLE = ProgressSnapshot(50.0, 40.0, 9, 0, "ready", "worker-1", ())
JUST_LEFT = ProgressSnapshot(50.0, 49.5, 9, 0, "ready", "worker-1", ())
LOADING = ProgressSnapshot(0.0, 0.0, 0, 0, "starting", "", ())
NEW = ProgressSnapshot(50.0, 0.0, 0, 0, "ready", "worker-1", ())
ABORTED = ProgressSnapshot(50.0, 40.0, 9, 0, "ready", "worker-1", ("a",))


@pytest.mark.parametrize(
    ("page", "code", "hung", "is_own_fault"),
    [
        (IDLE, -signal.SIGSEGV, False, True),
        (IDLE, 71, False, True),
        (IDLE, EXIT_LOOP_BROKEN, False, True),
        (IDLE, -signal.SIGKILL, True, True),
        (NEW, 71, False, True),
        (LOADING, 1, False, True),
        (LOADING, -signal.SIGKILL, False, True),
        (IDLE, -signal.SIGKILL, False, False),
        (NEW, -signal.SIGTERM, False, False),
        (snapshot(), 70, False, False),
        (snapshot("a"), -signal.SIGKILL, True, False),
        (ABORTED, 70, False, False),
        (JUST_LEFT, 70, False, False),
    ],
)
def test_death_is_the_engines_own_fault_where_no_request_was_near_and_nobody_killed_it(
    page: ProgressSnapshot, code: int, hung: bool, is_own_fault: bool
) -> None:
    assert Death(page, code, hung, 5.0).is_own_fault() is is_own_fault


OWN = Death(IDLE, 71, hung=False, healthy_s=5.0)
OWN_LATER = Death(IDLE, 71, hung=False, healthy_s=61.0)
KILLED = Death(IDLE, -signal.SIGKILL, hung=False, healthy_s=5.0)
POISONED = Death(snapshot(), 70, hung=False, healthy_s=5.0)


def test_kills_and_poisonous_requests_end_no_worker_however_often() -> None:
    restarts = Restarts(3)
    pauses_s = [restarts.pause_s(death) for death in [KILLED, POISONED] * 100]
    found_s = [pause_s for pause_s in pauses_s if pause_s is not None]
    assert len(found_s) == 200
    assert found_s[0] <= 0.2
    assert 0.4 < max(found_s) <= 2.0  # each is random, up to a limit that doubles to 2 s


def test_kills_between_an_engines_own_deaths_hide_them_not() -> None:
    restarts = Restarts(3)
    deaths = [OWN, KILLED, OWN, POISONED, OWN]
    assert [restarts.pause_s(death) is None for death in deaths] == [False] * 4 + [True]


def test_an_engine_that_was_healthy_for_long_begins_a_new_count() -> None:
    restarts = Restarts(3)
    for death in (OWN, OWN, OWN_LATER, OWN):
        assert restarts.pause_s(death) is not None
    assert restarts.pause_s(OWN) is None


def test_pauses_grow_with_the_engines_own_deaths() -> None:
    restarts = Restarts(20)
    pauses_s = [restarts.pause_s(OWN) or 0.0 for _ in range(19)]
    assert pauses_s[0] <= 0.2
    assert max(pauses_s) > 0.4  # each is random, up to a limit that doubles to 10 s


@contextmanager
def watched_worker(
    redis_url: str, log: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", ProgressPage]]:
    """A worker with the fake engine, and the page on which that says that it moves."""
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "services.worker.main"],
            env=child_environment(GALEN_WORKER_REDIS_URL=redis_url),
            stdout=stream,
        ) as worker,
    ):
        try:
            wait_until(lambda: page_of(worker.pid), "the progress page")
            page = ProgressPage(os.open(page_of(worker.pid), os.O_RDWR))
            yield worker, page
            page.close()
        finally:
            worker.kill()


def page_of(pid: int) -> str:
    fds = Path(f"/proc/{pid}/fd").iterdir()
    return next((str(fd) for fd in fds if "galen-progress" in str(fd.readlink())), "")


def signal_each_when_ready(
    worker_pid: int, page: ProgressPage, number: signal.Signals, times: int
) -> None:
    """Signal one engine after the other, each when it is ready and idle."""
    seen: set[int] = set()

    def next_engine() -> psutil.Process | None:
        new = [child for child in psutil.Process(worker_pid).children() if child.pid not in seen]
        return new[0] if new and page.read().beat > 0.0 else None

    for _ in range(times):
        wait_until(next_engine, "an engine that is ready", 20.0)
        engine = next_engine()
        assert engine is not None
        seen.add(engine.pid)
        engine.send_signal(number)


def test_an_engine_that_dies_idle_after_each_start_is_given_up(
    redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with watched_worker(redis_url, log) as (worker, page):
        signal_each_when_ready(worker.pid, page, signal.SIGSEGV, times=3)
        assert worker.wait(10) == 1
    text = log.read_text()
    assert text.count('"engine.died"') == text.count('"worker.ready"') == 3
    (gave_up,) = [line for line in text.splitlines() if "worker.gave_up" in line]
    assert '"failures": 3' in gave_up


def test_an_engine_that_is_killed_from_outside_is_started_again_each_time(
    redis_url: str, tmp_path: Path
) -> None:
    with watched_worker(redis_url, tmp_path / "log") as (worker, page):
        signal_each_when_ready(worker.pid, page, signal.SIGKILL, times=4)
        wait_until(lambda: page.read().beat == 0.0, "the fourth end")
        wait_until(lambda: page.read().beat > 0.0, "the next engine", 20.0)
        assert worker.poll() is None


def test_an_engine_process_counts_cards_as_the_driver_does_from_its_first_moment(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "order"
    (tmp_path / "sitecustomize.py").write_text(  # runs before anything is imported
        "import os, pathlib, sys\n"
        "if 'services.worker.engine_process' in sys.orig_argv:\n"
        f"    pathlib.Path({str(noted)!r}).write_text(os.environ['CUDA_DEVICE_ORDER'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with watched_worker(redis_url, tmp_path / "log") as (_, page):
        wait_until(lambda: page.read().beat > 0.0, "an engine that is ready", 20.0)
    assert noted.read_text() == "PCI_BUS_ID"

    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert child_environment()["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def run_worker(**settings: str) -> "subprocess.CompletedProcess[str]":
    environment = child_environment(
        **{f"GALEN_WORKER_{name.upper()}": value for name, value in settings.items()}
    )
    return subprocess.run(
        [sys.executable, "-m", "services.worker.main"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_engine_that_refuses_its_settings_is_not_started_again(redis_url: str) -> None:
    ended = run_worker(redis_url=redis_url, engine="transformers")
    assert ended.returncode == EXIT_CANNOT_START
    assert "GALEN_WORKER_MODEL_PATH" in ended.stdout
    assert ended.stdout.count("engine.start.refused") == 1


def test_a_person_at_a_terminal_reads_a_refusal_as_a_plain_line(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    log = tmp_path / "log"
    environment = child_environment(
        GALEN_WORKER_ENGINE="transformers", GALEN_WORKER_MODEL_PATH="/nowhere"
    )
    with log.open("wb") as stream:
        code = subprocess.run(
            [sys.executable, "-m", "services.worker.main"],
            env=environment, stdout=stream, stderr=theirs, timeout=60, check=False,
        ).returncode  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert code == EXIT_CANNOT_START
    assert said.splitlines() == [
        "galen: /nowhere is no directory: give a checkpoint in Hugging Face layout"
    ]
    assert log.read_text() == ""


def test_a_start_that_fails_is_tried_again_and_then_given_up(redis_url: str) -> None:
    ended = run_worker(redis_url=redis_url, start_timeout_s="0.001", most_failed_starts="3")
    assert ended.returncode == 1
    assert ended.stdout.count('"engine.hung"') == 3
    (gave_up,) = [line for line in ended.stdout.splitlines() if "worker.gave_up" in line]
    assert '"failures": 3' in gave_up


def test_an_unknown_setting_stops_the_start_with_one_line() -> None:
    ended = run_worker(sltos="8")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "unknown setting GALEN_WORKER_SLTOS; did you mean GALEN_WORKER_SLOTS?"
    ]


def test_a_worker_without_redis_says_where_it_looks_and_is_never_ready() -> None:
    settings = {"GALEN_WORKER_REDIS_URL": "redis://me:hunter2@127.0.0.1:1/3?socket_timeout=5"}
    with subprocess.Popen(
        [sys.executable, "-m", "services.worker.main"],
        env=child_environment(**settings), stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        assert worker.stdout is not None
        lines: list[str] = []
        while sum("worker.registration.delayed" in line for line in lines) < 2:  # it is repeated
            lines.append(worker.stdout.readline())
            assert lines[-1], lines
        worker.terminate()
        assert worker.wait(10) == 0  # at once
        said = "".join([*lines, *worker.stdout])
    assert said.count('"redis": "redis://127.0.0.1:1/3"') >= 2
    assert "hunter2" not in said
    assert "worker.ready" not in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "transformers", "model_path": "nowhere"}, "nowhere is no directory"),
        (
            {"engine": "transformers", "model_path": "{tiny}", "tensor_parallel_size": "4"},
            "does not divide 2 key-value heads",
        ),
        (
            {"engine": "vllm", "model_path": "{tiny}", "quantization": "bnb-nf4"},
            "vLLM 0.32 has no bitsandbytes; use --engine transformers",
        ),
        (
            {"engine": "vllm", "model_path": "{tiny}", "attention": "eager"},
            "vLLM chooses its own kernel",
        ),
        ({"engine": "fake", "adapters_dir": "nowhere"}, "nowhere is no directory"),
    ],
)
def test_what_cannot_run_is_refused_before_an_engine_is_started(
    settings: dict[str, str], message: str, tiny_llava: Path, redis_url: str
) -> None:
    given = {name: value.replace("{tiny}", str(tiny_llava)) for name, value in settings.items()}
    ended = run_worker(redis_url=redis_url, **given)
    assert ended.returncode == EXIT_CANNOT_START
    assert message in ended.stdout
    assert "engine_process" not in ended.stdout + ended.stderr
