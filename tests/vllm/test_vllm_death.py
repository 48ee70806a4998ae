"""What happens to vLLM's processes, and to the worker, when one of them dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory
from services.worker.settings import child_environment
from tests.support.waiting import eventually
from tests.vllm.conftest import SETTINGS

_START_S = 100.0


@contextmanager
def worker(path: Path, redis_url: str, **more: object) -> Iterator["subprocess.Popen[bytes]"]:
    settings = {**SETTINGS, "model_path": path, "redis_url": redis_url, "slots": 4, **more}
    environment = child_environment(
        **{f"GALEN_WORKER_{name.upper()}": str(value) for name, value in settings.items()}
    )
    with subprocess.Popen(
        [sys.executable, "-m", "services.worker.main"], env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def below(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """All processes of a worker: its engine first, then what vLLM started."""
    return psutil.Process(process.pid).children(recursive=True)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.long  # with requests in flight: test_vllm_killed.py
async def test_a_dead_engine_core_is_replaced_and_orphans_do_not_stay(
    tiny_llava: Path, redis_url: str, redis_wire: RedisWire
) -> None:
    directory = WorkerDirectory(redis_wire)

    async def ready() -> str | None:
        found = await directory.workers()
        return found[0].worker_id if found and found[0].state == "ready" else None

    async def first_is_gone() -> bool:
        return first not in [record.worker_id for record in await directory.workers()]

    with worker(tiny_llava, redis_url) as started:
        # 1. idle, and its engine core is killed from outside
        await eventually(ready, _START_S, "the worker")
        first = await ready()
        engine, *others = below(started)
        core = next(p for p in others if "EngineCore" in p.name())
        core.kill()
        assert await eventually(first_is_gone, 2.0, "the loss of the engine core") < 2.0
        for process in (engine, *others):
            await eventually(lambda process=process: is_gone(process), 3.0, "the end of the rest")
        # 2. the next one comes by itself; now the whole worker is killed at once
        await eventually(ready, _START_S, "the next engine")
        engine, *others = below(started)
        (core,) = [p for p in others if "VLLM::" in p.name()]  # its only rank lives in it
        assert "EngineCore" in core.name()
        os.kill(started.pid, signal.SIGSTOP)  # so that it cannot start another
        engine.kill()
        started.kill()
        for process in others:
            await eventually(lambda process=process: is_gone(process), 3.0, f"{process} is left")


@pytest.mark.long  # with an engine that starts in a moment: tests/worker/test_supervisor.py
def test_a_start_that_fails_inside_vllm_is_tried_again_and_then_given_up(
    tiny_llava: Path, tmp_path: Path, redis_url: str
) -> None:
    path = tmp_path / "incomplete"
    shutil.copytree(tiny_llava, path)
    tensors = load_file(path / "model.safetensors")
    name = next(n for n in tensors if n.endswith("language_model.model.norm.weight"))
    tensors[name] = tensors[name][:-1].contiguous()  # well-formed files, a shape that does not fit
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with worker(path, redis_url, most_failed_starts=2) as started:
        assert started.wait(_START_S) == 1


def test_settings_that_vllm_cannot_do_are_refused_at_once(tiny_llava: Path, redis_url: str) -> None:
    environment = {"quantization": "bnb-nf4", "model_path": tiny_llava, "redis_url": redis_url}
    settings = {**SETTINGS, **environment}
    ended = subprocess.run(
        [sys.executable, "-m", "services.worker.main"],
        env=child_environment(
            **{f"GALEN_WORKER_{name.upper()}": str(value) for name, value in settings.items()}
        ),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 3
    refusals = [line for line in ended.stdout.splitlines() if "engine.start.refused" in line]
    assert len(refusals) == 1
    assert "bitsandbytes" in json.loads(refusals[0])["cause"]
