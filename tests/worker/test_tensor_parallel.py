"""The transformers engine on two ranks: gloo and CPU here, NCCL and cards elsewhere."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import structlog
import torch

from modeling.checkpoint_files import open_checkpoint
from services.worker.engines.base import EngineStartError
from services.worker.engines.checkpoint import load_model
from services.worker.engines.tensor_parallel import Call, RankGroup, ShardedRunner
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.exit_codes import EXIT_ENGINE_BROKEN
from services.worker.load_options import LoadOptions
from services.worker.settings import child_environment
from tests.worker.checkpoints import make_tiny_llava_next
from tests.worker.engine_contract import mixed_jobs
from tests.worker.engine_harness import job, picture, running
from tests.worker.shared_engine import EngineHost

on_one_loop = pytest.mark.asyncio(loop_scope="module")

RANKS_2 = LoadOptions(dtype="float32", device="cpu", tensor_parallel_size=2)


def one_process(path: Path) -> TransformersEngine:
    return TransformersEngine(path, "tiny", 8, num_threads=1)


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def checkpoint(
    request: pytest.FixtureRequest, tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "llava":
        return tiny_llava
    return make_tiny_llava_next(tmp_path_factory.mktemp("next") / "tiny-llava-next")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sharded(checkpoint: Path) -> AsyncIterator[EngineHost]:
    host = EngineHost(TransformersEngine(checkpoint, "tiny", 8, load=RANKS_2, num_threads=1))
    with structlog.testing.capture_logs() as logs:
        await host.start()
    host.logs = logs
    yield host
    await host.close()


@on_one_loop
async def test_two_ranks_answer_as_one_process_does(checkpoint: Path, sharded: EngineHost) -> None:
    jobs = [
        *mixed_jobs(2),
        job("two", images=[picture(1), picture(2)], max_tokens=24),
        job("logprobs", images=[picture(3)], logprobs=3, max_tokens=8),
        job("sampled", images=[picture(3)], temperature=1.0, seed=5),
    ]
    async with running(lambda: one_process(checkpoint)) as started:
        expected = await started.run(*jobs)
    async with running(sharded.shared) as started:
        found = await started.run(*jobs)
    for want, have in zip(expected, found, strict=True):
        assert have.token_ids == want.token_ids
        assert have.text == want.text
    for want, have in zip(expected[-2].tokens, found[-2].tokens, strict=True):
        assert want.logprobs is not None
        assert have.logprobs is not None
        assert have.logprobs[0].logprob == pytest.approx(want.logprobs[0].logprob, abs=1e-3)


@on_one_loop
async def test_nearly_all_weights_are_sharded(checkpoint: Path, sharded: EngineHost) -> None:
    (loaded,) = [entry for entry in sharded.logs if entry["event"] == "engine.load.done"]
    tensors = open_checkpoint(checkpoint).tensors
    whole = sum(info.num_bytes for info in tensors.values())
    # what every rank holds: embeddings of tokens and places, norms, biases behind a sum
    kept = sum(i.num_bytes for n, i in tensors.items() if "embed" in n or i.shape[1:] == ())
    assert loaded["weight_bytes"] <= (whole - kept) / 2 + kept
    assert loaded["weight_bytes"] >= whole / 2


class _Ended(BaseException):
    """In place of the process's end."""


class _Calls(RankGroup):
    """A group without other ranks, which notes what they would be told."""

    def __init__(self) -> None:
        super().__init__(1, "cpu", 1)
        self.names: list[str] = []

    def call(self, call: Call, tensors: dict[str, torch.Tensor] | None = None) -> None:  # noqa: ARG002 (as its base)
        self.names.append(call.name)


@pytest.mark.parametrize("name", ["prefill", "add_row", "remove_row", "clear", "decode"])
def test_rank_0_that_fails_where_the_others_do_not_ends_the_process(
    name: str, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []

    def end(code: int) -> None:
        exits.append(code)
        raise _Ended

    model = load_model(tiny_llava, LoadOptions(dtype="float32", device="cpu"))
    others = _Calls()
    runner = ShardedRunner(others, model, 4, 64)
    prefilled = runner.prefill({"input_ids": torch.tensor([[1, 5, 6]])})
    runner.add_row(prefilled)
    given: dict[str, list[Any]] = {
        "prefill": [{"input_ids": torch.tensor([[1 << 20]])}],
        "add_row": [prefilled],
        "remove_row": [0],
        "decode": [[1, 2, 3]],
    }
    monkeypatch.setattr(runner, "_rope_deltas", None)  # nothing that changes rows works now
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(_Ended):
        getattr(runner, name)(*given.get(name, []))
    assert exits == [EXIT_ENGINE_BROKEN]
    assert others.names[-1] == name


def test_a_size_that_does_not_divide_is_refused_before_loading(tiny_llava: Path) -> None:
    engine = TransformersEngine(tiny_llava, "tiny", 8, load=LoadOptions(tensor_parallel_size=3))
    with pytest.raises(EngineStartError, match="does not divide 4 attention heads"):
        asyncio.run(engine.start(lambda _: None, _NoProgress()))


@pytest.mark.parametrize("options", [{"quantization": "bnb-nf4"}, {"device_map": "auto"}])
def test_what_cannot_be_sharded_is_refused(tiny_llava: Path, options: dict[str, Any]) -> None:
    load = LoadOptions(tensor_parallel_size=2, **options)
    with pytest.raises(EngineStartError, match="does not go with --tensor-parallel-size 2"):
        asyncio.run(
            TransformersEngine(tiny_llava, "tiny", 8, load=load).start(
                lambda _: None, _NoProgress()
            )
        )


class _NoProgress:
    def admitting(self, request_ids: object) -> None: ...

    def step_done(self) -> None: ...


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.worker.test_tensor_parallel import RANKS_2, TransformersEngine, _NoProgress, job

async def main():
    engine = TransformersEngine(Path(sys.argv[1]), "tiny", 8, load=RANKS_2, num_threads=1)
    speaks = asyncio.Event()
    await engine.start(lambda _: speaks.set(), _NoProgress())
    for number in range(8):
        engine.submit(job(str(number), max_tokens=1900))
    await speaks.wait()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def started_program(tiny_llava: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tiny_llava)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert any(line.startswith(b"started") for line in process.stdout)
    yield process
    process.kill()
    process.communicate()


def test_a_worker_that_lost_a_rank_starts_again(tiny_llava: Path, redis_url: str) -> None:
    settings = {
        "redis_url": redis_url, "engine": "transformers", "model_path": str(tiny_llava),
        "device": "cpu", "tensor_parallel_size": "2", "num_threads": "1",
    }  # fmt: skip
    named = {f"GALEN_WORKER_{name.upper()}": value for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "services.worker.main"],
        env=child_environment(**named), stdout=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        assert worker.stdout is not None
        assert any("worker.ready" in line for line in worker.stdout)
        for process in psutil.Process(worker.pid).children(recursive=True):
            if any("tensor_parallel_rank" in word for word in process.cmdline()):
                process.kill()
        assert any("engine.rank.lost" in line for line in worker.stdout)
        assert any("worker.ready" in line for line in worker.stdout)
        worker.terminate()
        assert worker.wait(20) == 0


def test_a_rank_lost_while_all_decode_ends_all(started_program: "subprocess.Popen[bytes]") -> None:
    (rank,) = psutil.Process(started_program.pid).children()
    os.kill(rank.pid, signal.SIGKILL)
    assert started_program.wait(10) == -signal.SIGKILL  # from outside: no request is suspected


def test_ranks_die_with_rank_0_while_all_decode(started_program: "subprocess.Popen[bytes]") -> None:
    (rank,) = psutil.Process(started_program.pid).children()
    started_program.kill()
    started_program.wait()
    assert psutil.wait_procs([rank], timeout=10)[1] == []
