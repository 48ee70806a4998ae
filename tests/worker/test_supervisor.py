"""The parent's verdict on a dead engine; the real deaths are in tests/faults."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.protocol.worker_directory import ALL_SUSPECT
from services.worker.engine_process import EXIT_CANNOT_START, EXIT_LOOP_BROKEN
from services.worker.main import _verdict
from services.worker.progress_page import ProgressSnapshot
from services.worker.settings import child_environment


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


def test_a_start_that_fails_is_tried_again_and_then_given_up(redis_url: str) -> None:
    ended = run_worker(redis_url=redis_url, start_timeout_s="0.001", most_failed_starts="3")
    assert ended.returncode == 1
    assert ended.stdout.count('"engine.hung"') == 3
    (gave_up,) = [line for line in ended.stdout.splitlines() if "worker.gave_up" in line]
    assert '"failed_starts": 3' in gave_up


def test_an_unknown_setting_stops_the_start_with_one_line() -> None:
    ended = run_worker(sltos="8")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "unknown setting GALEN_WORKER_SLTOS; did you mean GALEN_WORKER_SLOTS?"
    ]


def test_a_worker_that_never_found_redis_ends_at_once_when_told_to(tmp_path: Path) -> None:
    settings = {"GALEN_WORKER_REDIS_URL": f"unix://{tmp_path}/none.sock"}
    with subprocess.Popen(
        [sys.executable, "-m", "services.worker.main"],
        env=child_environment(**settings), stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        assert worker.stdout is not None
        waits = next(line for line in worker.stdout if "worker.registration.delayed" in line)
        assert waits
        worker.terminate()
        assert worker.wait(10) == 0


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
            "needs --engine transformers",
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
