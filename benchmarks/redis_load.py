"""Measures what Redis carries: its CPU and bytes per worker, gateway, request and engine step.

The real halves of the protocol, against a Redis that serves nothing else; then a gateway and a
worker with the fake engine, to see that the parts add up; and `redis-benchmark` in the same run, to
see what this machine's Redis does at most. `docs/scaling.md` builds its arithmetic on the figures.

Run: python -m benchmarks.redis_load --help
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import redis
import typer

from benchmarks.ours import start_redis
from benchmarks.page_sections import MeasuredSection
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import Flow, body, send_open, start_platform
from services.protocol import keys
from services.protocol.connection import Script, open_wire
from services.protocol.event_stream import End, EventReader, EventWriter
from services.protocol.messages import (
    PROTOCOL_VERSION,
    EventBatch,
    GenerationRequest,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
    Tokens,
    WorkerRecord,
    encode,
)
from services.protocol.request_queue import RequestQueue, WorkerQueue
from services.protocol.worker_directory import WorkerDirectory

MODEL = "load"
GATEWAY = "gateway-load"
WORKER = "worker-load"
QUESTION = "Describe the findings in this image. " * 8
"""300 characters: a question with some context."""
STEPS = (1, 16, 64, 256)
DIRECTORIES = (1, 100, 1000)
IDLE_WORKERS = 200
CALLS = 2000
ROUNDS = 3
_TOP_LEVEL = ("evalsha", "blpop", "xread", "xtrim", "get", "set", "hgetall", "smembers")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Spent:
    """What Redis did for one thing: CPU in microseconds, bytes that came and went."""

    cpu_us: float
    bytes_in: float
    bytes_out: float


class Meter:
    """Reads Redis' own counters before and after."""

    def __init__(self, socket_path: Path) -> None:
        self._client = redis.Redis(unix_socket_path=str(socket_path))

    def read(self) -> Spent:
        """Return the counters now."""
        cpu, stats = self._client.info("cpu"), self._client.info("stats")
        return Spent(
            (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6,
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
        )

    def calls(self) -> dict[str, int]:
        """Return how often clients called what; commands inside of scripts are left out."""
        stats = self._client.info("commandstats")
        return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _TOP_LEVEL}

    def clear(self) -> None:
        """Forget all keys."""
        self._client.flushall()

    async def per(self, count: int, work: Callable[[], Awaitable[object]]) -> Spent:
        """Return what one of `count` things cost."""
        before = self.read()
        await work()
        after = self.read()
        return Spent(
            (after.cpu_us - before.cpu_us) / count,
            (after.bytes_in - before.bytes_in) / count,
            (after.bytes_out - before.bytes_out) / count,
        )


def _record(worker_id: str) -> WorkerRecord:
    card = ModelCard(
        MODEL, "vllm", 4096, 16, frozenset({"max_tokens", "temperature", "top_p", "seed", "stop"}),
        frozenset({"greedy", "sampling"}),
    )  # fmt: skip
    return WorkerRecord(worker_id, card, "ready", 64, 32, 100_000, "gpu-box-1")


def _request(number: int) -> GenerationRequest:
    messages = (Message("user", (TextPart(QUESTION),)),)
    return GenerationRequest(
        f"chatcmpl-{number:020d}", GATEWAY, "tenant", MODEL, "interactive", messages,
        SamplingParams(max_tokens=256, seed=number),
    )  # fmt: skip


def step_payload(sequences: int) -> bytes:
    """Return the events of one engine step: a token of each sequence."""
    tokens = [
        Tokens(f"chatcmpl-{i:020d}", 1, 100, [29871 + i], [" tissue"]) for i in range(sequences)
    ]
    return encode(EventBatch(PROTOCOL_VERSION, WORKER, list(tokens)))


class Load:
    """The protocol's halves on one Redis."""

    def __init__(self, socket_path: Path, meter: Meter) -> None:
        self.url = f"unix://{socket_path}"
        self._meter = meter

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[tuple[WorkerDirectory, EventWriter]]:
        """Empty the data; a gateway and a worker with leases for as long as they are renewed."""
        self._meter.clear()
        wire = open_wire(self.url)
        directory = WorkerDirectory(wire)

        async def renew() -> None:
            while True:
                await directory.gateway_beat(GATEWAY)
                await directory.renew(_record(WORKER))
                await asyncio.sleep(keys.HEARTBEAT_S)

        await directory.gateway_beat(GATEWAY)
        await directory.register(_record(WORKER))
        renewing = asyncio.create_task(renew())
        try:
            yield directory, EventWriter(wire)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await wire.aclose()

    async def step(self, sequences: int) -> Spent:
        """Publish and read the events of an engine step."""
        payload = step_payload(sequences)
        reading = open_wire(self.url, blocking=True)
        async with self.begun() as (_, writer):
            reader = EventReader(reading, GATEWAY)

            async def work() -> None:
                for _ in range(CALLS):
                    await writer.publish(WORKER, GATEWAY, payload, ())
                    await reader.read()

            spent = await self._meter.per(CALLS, work)
        await reading.aclose()
        return spent

    async def request(self) -> Spent:
        """Queue, claim and end a request."""
        wire = open_wire(self.url)
        queue, worker = RequestQueue(wire), WorkerQueue(wire, wire, MODEL)
        async with self.begun() as (_, writer):

            async def work() -> None:
                for number in range(CALLS):
                    request = _request(number)
                    await queue.enqueue(request, max_waiting=4096, cost_tokens=400)
                    claim = await worker.claim(WORKER, 8)
                    ends = [End(each.request_id, each.attempt) for each in claim.entries]
                    await writer.publish(WORKER, GATEWAY, b"", ends)

            spent = await self._meter.per(CALLS, work)
        await wire.aclose()
        return spent

    async def idle_worker_second(self, seconds: float) -> Spent:
        """Let workers wait for work: heartbeats, doorbells, orders."""
        self._meter.clear()
        wires = [open_wire(self.url, blocking=True) for _ in range(2 * IDLE_WORKERS)]
        beats = open_wire(self.url)
        until = time.monotonic() + seconds

        async def live(number: int) -> None:
            name = f"worker-{number}"
            directory, bell, control = WorkerDirectory(beats), *wires[2 * number : 2 * number + 2]
            await directory.register(_record(name))

            async def beat() -> None:
                while time.monotonic() < until:
                    await directory.renew(_record(name))
                    await asyncio.sleep(keys.HEARTBEAT_S)

            async def wait() -> None:
                while time.monotonic() < until:
                    await WorkerQueue(beats, bell, MODEL).wait_for_work(name)

            async def hear() -> None:
                while time.monotonic() < until:
                    await WorkerQueue(beats, control, MODEL).next_control(name)

            await asyncio.gather(beat(), wait(), hear())

        async def work() -> None:
            await asyncio.gather(*(live(number) for number in range(IDLE_WORKERS)))

        spent = await self._meter.per(round(IDLE_WORKERS * seconds), work)
        for wire in (*wires, beats):
            await wire.aclose()
        return spent

    async def gateway_second(self, num_workers: int) -> Spent:
        """Do what a gateway does each second, beside so many workers."""
        count = max(10, min(200, 20_000 // num_workers))
        async with self.begun() as (directory, _):
            for number in range(num_workers - 1):
                await directory.register(_record(f"worker-{number:06d}"))

            async def work() -> None:
                for _ in range(count):
                    await directory.gateway_beat(GATEWAY)
                    await directory.workers()
                    await directory.models_seen()
                    await directory.unloaded()
                    await directory.waiting()
                    await directory.claimed()
                    await directory.reap_expired()

            return await self._meter.per(count, work)


async def _median(measure: Callable[[], Awaitable[Spent]]) -> Spent:
    rounds = [await measure() for _ in range(ROUNDS)]
    return Spent(*(statistics.median(values) for values in zip(*map(_fields, rounds), strict=True)))


def _fields(spent: Spent) -> tuple[float, float, float]:
    return spent.cpu_us, spent.bytes_in, spent.bytes_out


def _row(what: str, spent: Spent) -> list[str]:
    most = 1e6 / spent.cpu_us if spent.cpu_us else 0.0
    figures = (spent.bytes_in, spent.bytes_out, most)
    return [what, f"{spent.cpu_us:.1f}", *(f"{figure:,.0f}" for figure in figures)]


async def _parts(load: Load, seconds: float) -> list[list[str]]:
    rows = [_row("a worker for a second, idle", await load.idle_worker_second(seconds))]
    for size in DIRECTORIES:
        spent = await _median(lambda size=size: load.gateway_second(size))
        rows.append(_row(f"a gateway for a second, beside {size} workers", spent))
    rows.append(_row("a request: queued, claimed, ended", await _median(load.request)))
    for size in STEPS:
        spent = await _median(lambda size=size: load.step(size))
        rows.append(_row(f"an engine step of {size} sequences: written, read", spent))
    return rows


def _ceilings(socket_path: Path, meter: Meter) -> list[list[str]]:
    """Ask redis-benchmark: what this Redis does at most with nothing but clients in C."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise BenchError("there is no redis-benchmark; install Debian's package redis-tools")

    def rate(*words: str) -> float:
        command = [program, "-s", str(socket_path), "-c", "50", "--csv", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return float(done.stdout.strip().splitlines()[-1].split('","')[1].strip('"'))

    meter.clear()
    rows: list[list[str]] = []
    for pipeline in ("1", "16"):
        per_s = rate("-n", "200000", "-P", pipeline, "-t", "ping_mbulk")
        rows.append([f"redis-benchmark: PING, {pipeline} at once", "", "", "", f"{per_s:,.0f}"])
    client = redis.Redis(unix_socket_path=str(socket_path))
    client.zadd(keys.LEASES, {WORKER: 1e15})
    client.set(keys.gateway_lease(GATEWAY), "1")
    sha = client.script_load(Script("publish").text)
    for size in STEPS[1:3]:
        names = [
            keys.LEASES, keys.running(WORKER), keys.gateway_lease(GATEWAY), keys.events(GATEWAY),
            keys.inflight(GATEWAY), keys.DEAD, keys.FENCED_WRITES,
        ]  # fmt: skip
        payload = "x" * len(step_payload(size))
        script = [
            "evalsha",
            sha,
            str(len(names)),
            *names,
            WORKER,
            keys.GROUP,
            "1",
            "1",
            "60000",
            payload,
        ]
        per_s = rate("-n", "30000", "-P", "1", *script)
        rows.append(
            [f"redis-benchmark: our script for steps of {size}", "", "", "", f"{per_s:,.0f}"]
        )
        client.delete(keys.events(GATEWAY))
    return rows


async def _platform(settings: BenchSettings, children: ChildProcesses, seconds: float) -> list[str]:
    """Count what a whole platform asks of Redis, per engine step of the fake engine."""
    metrics_port = settings.port_base + 161
    port = start_platform(settings, children, slots=64, max_waiting=4096, metrics_port=metrics_port)
    meter = Meter(settings.folder("run") / "redis.sock")

    def worker(name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        return float(re.findall(rf"(?m)^{name} (\S+)$", text)[0])

    def counters() -> tuple[float, float, Spent, int]:
        steps = worker("galen_worker_engine_steps_total")
        tokens = worker("galen_worker_generated_tokens_total")
        return steps, tokens, meter.read(), sum(meter.calls().values())

    before = counters()
    flow = Flow("tenant", 12.0, lambda: body("n=100 t=50 d=40"))  # about 48 running
    answers = await send_open(port, [flow], seconds, 1)
    after = counters()
    steps, tokens = after[0] - before[0], after[1] - before[1]
    spent, calls = after[2].cpu_us - before[2].cpu_us, after[3] - before[3]
    moved = after[2].bytes_in + after[2].bytes_out - before[2].bytes_in - before[2].bytes_out
    return [
        f"Whole platform, {len(answers)} answers of 100 tokens: {tokens:,.0f} tokens in",
        f"{steps:,.0f} engine steps ({tokens / steps:.1f} a step). Redis was called",
        f"{calls / steps:.2f} times a step ({calls / tokens:.3f} a token), moved",
        f"{moved / tokens:,.0f} bytes a token, and worked {spent / steps:.0f} us a step",
        f"({spent / tokens:.1f} us a token), heartbeats and requests included.",
    ]


@app.command()
def bench(
    *,
    seconds: Annotated[float, typer.Option(min=5, help="Length of the loads in time.")] = 15.0,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure what Redis carries; prints a section of Markdown."""
    settings = BenchSettings()
    busy_before = psutil.getloadavg()[0]
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            socket_path, _ = start_redis(settings, children, is_durable=True)
            meter = Meter(socket_path)
            version = str(
                redis.Redis(unix_socket_path=str(socket_path)).info("server")["redis_version"]
            )
            rows = asyncio.run(_parts(Load(socket_path, meter), seconds))
            rows += _ceilings(socket_path, meter)
        with ChildProcesses(settings.folder("logs")) as children:
            told = asyncio.run(_platform(settings, children, seconds))
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    MeasuredSection(
        "redis-load",
        "What Redis carries",
        [
            f"Redis {version} on a Unix socket, append-only file synced every second; its own CPU",
            f"time (`INFO cpu`) and bytes, medians of {ROUNDS} rounds of {CALLS:,}. *At most*:",
            "so many a second would fill its one core.",
            "",
            *told,
        ],
        rows,
        busy_before,
        ("what", "CPU, us", "bytes in", "bytes out", "at most, 1/s"),
    ).publish(out)


if __name__ == "__main__":
    app()
