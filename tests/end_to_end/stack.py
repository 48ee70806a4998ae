"""A running platform as the tests of its HTTP side see it: clients, counters, memory, logs.

The processes themselves are started and ended by `tests/support/stack.py`. Plain functions: a
stack outlives the event loops of single tests.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.support.program import Program, free_port
from tests.support.stack import Stack
from tests.support.waiting import eventually, wait_until

if TYPE_CHECKING:
    import redis


class RunningStack:
    """One gateway and one worker that serve `model`."""

    def __init__(
        self, stack: Stack, model: str, worker_metrics_port: int, key: str | None = None
    ) -> None:
        self._stack = stack
        self._worker_metrics = f"http://127.0.0.1:{worker_metrics_port}/metrics"
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        # One for all: making a TLS context takes 20 ms.
        self._http = httpx.Client(verify=False, headers=headers)
        self.model = model
        self.base_url = f"http://127.0.0.1:{stack.port}"

    @property
    def port(self) -> int:
        return self._stack.port

    @property
    def gateway(self) -> Program:
        return self._stack.gateways[0]

    @property
    def worker(self) -> Program:
        return self._stack.workers[0]

    @property
    def redis(self) -> "redis.Redis":
        return self._stack.redis

    def add_gateway(self) -> int:
        """Start one more gateway; returns its port once it is ready."""
        self._stack.add_gateway("g1")
        port = self._stack.ports[-1]

        def is_ready() -> bool:
            try:
                return self._http.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, "the second gateway", 30)
        return port

    def add_jobs(self, **settings: str) -> None:
        """Start a job worker."""
        self._stack.add_jobs("jobs", **settings)

    def client(self, **options) -> OpenAI:
        """The official client; it repeats nothing by itself, so that each error is seen."""
        return OpenAI(**self._client_options(options))

    def async_client(self, **options) -> AsyncOpenAI:
        return AsyncOpenAI(**self._client_options(options))

    def _client_options(self, options: dict) -> dict:
        return {"base_url": f"{self.base_url}/v1", "api_key": "none", "max_retries": 0, **options}

    @property
    def store_folder(self) -> Path:
        """Where database and files are."""
        return self._stack.folder / "store"

    def num_running(self) -> int:
        """Requests in the engine."""
        return int(self.worker_count("galen_worker_running_requests"))

    def num_waiting(self) -> int:
        """Requests in the queue."""
        return self._stack.num_waiting()

    def is_idle(self) -> bool:
        """Whether nothing is left of earlier requests, anywhere."""
        left = self._stack.leftovers()
        left.pop("busy", None)  # as of the last heartbeat; `num_running` is as of now
        return not left and self.num_running() == 0

    def worker_count(self, metric: str, **labels: str) -> float:
        """A metric of the worker, as of now."""
        return sample_of(self._http.get(self._worker_metrics).text, metric, **labels)

    def gateway_count(self, metric: str, **labels: str) -> float:
        """A metric of the gateway, as of now."""
        return sample_of(self._http.get(f"{self.base_url}/metrics").text, metric, **labels)

    def gateway_rss_bytes(self) -> int:
        """Memory of the gateway's process, its decoders not included."""
        return psutil.Process(self.gateway.pid).memory_info().rss

    def metrics_pages(self) -> str:
        """What gateway and worker publish."""
        pages = (f"{self.base_url}/metrics", self._worker_metrics)
        return "\n".join(self._http.get(page).text for page in pages)

    def lists_its_model(self) -> bool:
        """Whether the gateway has heard of the worker."""
        return self.model in self._http.get(f"{self.base_url}/v1/models").text

    def close(self) -> None:
        """Close the connections of this side."""
        self._http.close()

    def logs(self) -> dict[str, str]:
        """All that gateway and worker have printed."""
        return {each.name: self._stack.log_of(each) for each in (self.gateway, self.worker)}


@contextlib.contextmanager
def running_stack(
    folder: Path,
    *,
    model: str,
    slots: int = 8,
    gateway: Mapping[str, str] | None = None,
    worker: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Iterator[RunningStack]:
    """A platform that answers; `gateway` and `worker` are settings without their prefix.

    `key`: what its own questions are asked with, where one is needed.
    """
    metrics_port = free_port()
    worker = {"MODEL_ID": model, "METRICS_PORT": str(metrics_port), **(worker or {})}
    settings = {f"GALEN_GATEWAY_{name}": value for name, value in (gateway or {}).items()}
    settings |= {f"GALEN_WORKER_{name}": value for name, value in worker.items()}
    stack = Stack(folder, num_workers=1, slots=slots, durable=False, settings=settings)
    with asyncio.Runner() as runner:
        runner.run(stack.__aenter__())
        running = RunningStack(stack, model, metrics_port, key)
        try:
            runner.run(_lists_its_model(running))
            yield running
        finally:
            running.close()
            runner.run(stack.__aexit__(None, None, None))


def sample_of(page: str, metric: str, **labels: str) -> float:
    """Sum of the samples of a metric that have these labels; 0 where there is none yet."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == metric and labels.items() <= sample.labels.items()
    )


async def _lists_its_model(running: RunningStack) -> None:
    await eventually(running.lists_its_model, 10.0, "the model in the list")
