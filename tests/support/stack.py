"""A whole platform as real processes: Redis, gateways and workers with the fake engine.

    async with Stack(folder, num_workers=4) as stack:
        record = await Client(stack.port).ask("[[n=8]]")

Leaving the block kills everything and fails where a process is left behind. What does *not* live
here: faults (the tests inject them, by signals) and judgement (`history.py`).
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from services.protocol import keys
from services.protocol.messages import WorkerRecord, decode_record
from tests.support.program import Program, free_port, is_alive, kill
from tests.support.redis_server import redis_program, socket_in
from tests.support.waiting import NeverCameError, eventually

MODEL = "fake"
START_LIMIT_S = 40.0


@dataclass(slots=True)
class Stack:
    """See the module's text.

    Args:
        folder: for logs.
        durable: Redis keeps an append-only file, synced every second.
        gateway_module, worker_module: what to run; sabotaged variants stand in `sabotage/`.
        settings: more environment variables for all programs.
        start_limit_s: longest start of its workers.
    """

    folder: Path
    num_workers: int = 4
    num_gateways: int = 1
    slots: int = 8
    durable: bool = True
    gateway_module: Sequence[str] = ("services.gateway.main",)
    worker_module: Sequence[str] = ("services.worker.main",)
    settings: Mapping[str, str] = field(default_factory=dict)
    start_limit_s: float = START_LIMIT_S
    gateways: list[Program] = field(default_factory=list)
    workers: list[Program] = field(default_factory=list)
    jobs: list[Program] = field(default_factory=list)
    pages: list[Program] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    _redis: Program = field(init=False)
    _home: Path = field(init=False)
    _client: Any = field(init=False)  # redis-py gives its replies wider types than they have
    _http: httpx.AsyncClient = field(init=False)

    # --- life ---

    async def __aenter__(self) -> "Stack":
        # Short: a socket's path is limited.
        self._home = Path(tempfile.mkdtemp(prefix="galen-stack-"))
        self._client = redis.Redis(unix_socket_path=str(self._socket), socket_timeout=2.0)
        self._http = httpx.AsyncClient(timeout=2.0)
        self._redis = redis_program(self._home, log=self.folder / "redis.log", durable=self.durable)
        try:
            self._redis.start()
            await eventually(self._client.ping, START_LIMIT_S, "redis")
            for index in range(self.num_workers):
                self.add_worker(f"w{index}")
            for index in range(self.num_gateways):
                self.add_gateway(f"g{index}")
            await self.healthy(self.start_limit_s)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        ours = {process.pid: process for process in self._all_processes()}
        for process in ours.values():
            kill(process)
        for program in self._programs:
            if program.process is not None:
                program.process.wait(10)
        await self._http.aclose()
        self._client.close()
        try:
            await eventually(
                lambda: not any(is_alive(p) for p in ours.values()),
                5.0,
                "the end of all processes",
            )
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    @property
    def _programs(self) -> list[Program]:
        return [*self.gateways, *self.workers, *self.jobs, *self.pages, self._redis]

    def _all_processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for program in self._programs:
            if program.process is not None and program.process.poll() is None:
                parent = psutil.Process(program.pid)
                found += [*parent.children(recursive=True), parent]
        return found

    def add_worker(self, name: str, **settings: str) -> Program:
        """Start one more worker; `healthy` waits for it."""
        environment = self._environment({
            "GALEN_WORKER_REDIS_URL": self.redis_url,
            "GALEN_WORKER_NAME": name,
            "GALEN_WORKER_MODEL_ID": MODEL,
            "GALEN_WORKER_SLOTS": str(self.slots),
            "GALEN_WORKER_METRICS_PORT": str(free_port()),
            **settings,
        }, "GALEN_WORKER_")  # fmt: skip
        program = self._program(name, self.worker_module, environment)
        self.workers.append(program)
        program.start()
        return program

    def add_gateway(self, name: str) -> Program:
        """Start one more gateway on a free port."""
        port = free_port()
        environment = self._environment({
            "GALEN_GATEWAY_REDIS_URL": self.redis_url, "GALEN_GATEWAY_PORT": str(port),
            **self._store,
        }, "GALEN_GATEWAY_")  # fmt: skip
        program = self._program(name, self.gateway_module, environment)
        self.gateways.append(program)
        self.ports.append(port)
        program.start()
        return program

    def add_jobs(self, name: str, **settings: str) -> Program:
        """Start one more job worker, which asks the first gateway."""
        environment = self._environment({
            "GALEN_JOBS_REDIS_URL": self.redis_url,
            "GALEN_JOBS_GATEWAY_URL": f"http://127.0.0.1:{self.port}/v1",
            "GALEN_JOBS_NAME": name,
            "GALEN_JOBS_LEASE_S": "3",
            "GALEN_JOBS_LOOK_S": "0.5",
            "GALEN_JOBS_STUCK_S": "10",
            **self._store,
            **settings,
        }, "GALEN_JOBS_")  # fmt: skip
        program = self._program(name, ("evaluation.jobs.main",), environment)
        self.jobs.append(program)
        program.start()
        return program

    def add_page(self, module: Sequence[str] = ("services.ui.main",), **settings: str) -> str:
        """Start the page, which asks the first gateway; returns its address."""
        port = free_port()
        environment = self._environment({
            "GALEN_UI_GATEWAY_URL": f"http://127.0.0.1:{self.port}/v1",
            "GALEN_UI_PORT": str(port),
            **settings,
        }, "GALEN_UI_")  # fmt: skip
        program = self._program("page", module, environment)
        self.pages.append(program)
        program.start()
        return f"http://127.0.0.1:{port}"

    @property
    def _store(self) -> dict[str, str]:
        more = {k: v for k, v in self.settings.items() if k.startswith("GALEN_STORE_")}
        return {"GALEN_STORE_DIR": str(self.folder / "store"), **more}

    def _program(self, name: str, module: Sequence[str], environment: Mapping[str, str]) -> Program:
        command = (sys.executable, "-m", *module)
        return Program(name, command, environment, self.folder / f"{name}.log")

    def _environment(self, own: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Ours, without settings that a developer's shell may hold, and only those of one kind."""
        outer = os.environ  # noqa: TID251 - a child's environment is made here
        kept = {k: v for k, v in outer.items() if not k.startswith("GALEN_")}
        more = {k: v for k, v in self.settings.items() if k.startswith(prefix)}
        return {**kept, **own, **more}

    # --- Redis ---

    @property
    def _socket(self) -> Path:
        return socket_in(self._home)

    @property
    def redis_url(self) -> str:
        """Where Redis listens."""
        return f"unix://{self._socket}"

    @property
    def redis(self) -> Any:
        """A client for looking into it."""
        return self._client

    def kill_redis(self, *, wipe: bool = False) -> None:
        """End Redis with SIGKILL, and its data too if told so."""
        self._redis.send(signal.SIGKILL)
        assert self._redis.process is not None
        self._redis.process.wait()
        if wipe:
            for path in self._home.glob("*"):
                if path != self._socket:
                    path.unlink() if path.is_file() else shutil.rmtree(path)

    def send_redis(self, number: signal.Signals) -> None:
        """Send a signal to Redis."""
        self._redis.send(number)

    async def start_redis(self) -> None:
        """Start it again with whatever data there are."""
        self._redis.start()
        await eventually(self._client.ping, START_LIMIT_S, "redis")

    # --- what stands in Redis ---

    def worker_records(self) -> dict[str, WorkerRecord]:
        """Records of all workers with a lease, by the names of their programs."""
        leased = set(self._client.zrange(keys.LEASES, 0, -1))
        blobs = self._client.hgetall(keys.WORKERS)
        records = [decode_record(blob) for worker, blob in blobs.items() if worker in leased]
        return {record.worker_id.rpartition("-")[0]: record for record in records}

    def worker_id(self, worker: Program) -> str:
        """Id of the worker's present incarnation, "" where it has none."""
        record = self.worker_records().get(worker.name)
        return record.worker_id if record else ""

    def holder_of(self, request_id: str) -> Program | None:
        """The worker that holds a request of this HTTP request id."""
        for worker in self.workers:
            held = self._client.hkeys(keys.running(self.worker_id(worker)))
            if any(key.decode().startswith(request_id) for key in held):
                return worker
        return None

    async def holder_soon(self, request_id: str) -> Program:
        """Wait until a worker holds the request, and return it."""
        await eventually(lambda: self.holder_of(request_id), 2.0, "a holder of the request")
        holder = self.holder_of(request_id)
        assert holder is not None, "the request has ended"
        return holder

    def busiest(self) -> Program:
        """The worker that holds the most requests now."""
        records = self.worker_records()
        held = {
            name: self._client.hlen(keys.running(record.worker_id))
            for name, record in records.items()
        }
        return max(self.workers, key=lambda worker: held.get(worker.name, 0))

    def num_running(self) -> int:
        """Requests that workers hold."""
        return sum(self._client.hlen(key) for key in self._client.scan_iter(keys.running("*")))

    def num_waiting(self) -> int:
        """Requests in the queue."""
        return sum(int(count) for count in self._client.hvals(keys.DEPTH))

    def leftovers(self) -> dict[str, object]:
        """What an idle stack must not hold; {} where it is clean."""
        found: dict[str, object] = {
            "running": self.num_running(),
            "waiting": self.num_waiting(),
            "inflight": sum(
                self._client.hlen(key) for key in self._client.scan_iter(keys.inflight("*"))
            ),
            "entries": [key.decode() for key in self._client.scan_iter(keys.PREFIX + "work:*")],
            "busy": sum(record.running for record in self.worker_records().values()),
        }
        return {name: value for name, value in found.items() if value}

    def fenced_writes(self) -> int:
        """Publishes refused to workers without a lease; refused renewals are counted elsewhere."""
        return int(self._client.get(keys.FENCED_WRITES) or 0)

    def dead_letters(self) -> list[dict[str, str]]:
        """The dead-letter stream."""
        return [
            {key.decode(): value.decode() for key, value in fields.items()}
            for _, fields in self._client.xrange(keys.DEAD)
        ]

    # --- processes ---

    def engine_of(self, worker: Program) -> psutil.Process | None:
        """The worker's engine process, where there is one."""
        children = psutil.Process(worker.pid).children()
        return children[0] if children else None

    def kill_engine(self, worker: Program) -> float:
        """SIGKILL to the engine process; returns when."""
        engine = self.engine_of(worker)
        assert engine is not None, f"{worker.name} has no engine"
        engine.kill()
        return time.monotonic()

    def kill_worker(self, worker: Program) -> float:
        """SIGKILL to the parent and its engine; returns when."""
        engine = self.engine_of(worker)
        worker.send(signal.SIGKILL)
        if engine is not None:
            kill(engine)
        now = time.monotonic()
        assert worker.process is not None
        worker.process.wait()
        return now

    # --- what the gateway says ---

    @property
    def port(self) -> int:
        """Of the first gateway."""
        return self.ports[0]

    async def ready(self, gateway: int = 0) -> int:
        """Status of /readyz; 0 where the port is closed."""
        try:
            return (
                await self._http.get(f"http://127.0.0.1:{self.ports[gateway]}/readyz")
            ).status_code
        except httpx.HTTPError:
            return 0

    async def metric(self, name: str, gateway: int = 0) -> float:
        """Sum of a metric's samples."""
        response = await self._http.get(f"http://127.0.0.1:{self.ports[gateway]}/metrics")
        return _sum_of(response.text, name)

    async def worker_metric(self, name: str) -> float:
        """Sum of a metric over all engine processes: what the engines do, not what Redis says."""
        total = 0.0
        for worker in self.workers:
            port = worker.environment["GALEN_WORKER_METRICS_PORT"]
            response = await self._http.get(f"http://127.0.0.1:{port}/metrics")
            total += _sum_of(response.text, name)
        return total

    async def healthy(self, timeout_s: float = START_LIMIT_S) -> float:
        """Return the seconds until everything runs and nothing is left of earlier requests."""

        def all_workers_are_ready() -> bool:
            records = self.worker_records()
            return all(
                worker.name in records and records[worker.name].state == "ready"
                for worker in self.workers
            )

        async def all_gateways_are_ready() -> bool:
            return all([await self.ready(i) == 200 for i in range(len(self.gateways))])

        started = time.monotonic()
        try:
            await eventually(all_workers_are_ready, timeout_s, "all workers")
            await eventually(all_gateways_are_ready, timeout_s, "all gateways")
            await eventually(lambda: not self.leftovers(), timeout_s, "a clean queue")
        except NeverCameError as error:
            error.add_note("\n".join(program.last_words() for program in self._programs))
            raise
        return time.monotonic() - started

    def has_finished(self, program: Program) -> bool:
        """Whether a process has ended (asked in `eventually`)."""
        return program.exit_code is not None

    async def exit_code_of(self, program: Program, timeout_s: float) -> int:
        """Wait for the end of a process."""
        what = f"the end of {program.name}"
        await eventually(lambda: self.has_finished(program), timeout_s, what)
        code = program.exit_code
        assert code is not None
        return code

    def log_of(self, program: Program) -> str:
        """Everything that a program has said."""
        return program.log.read_text()


def _sum_of(text: str, name: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
