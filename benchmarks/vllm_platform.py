"""Measures the whole platform with vLLM inside beside `vllm serve` on the same engine settings.

Both servers live, warm, at the same time; in every round each has its turn, while the other one is
idle. The client, the requests and the checkpoint are the same. Needs an interpreter that has vLLM:

Run: .venv-vllm/bin/python -m benchmarks.vllm_platform --help
"""

import importlib.util
import itertools
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from benchmarks.completion_client import StreamedLoad, chat_body, stream_all
from benchmarks.large_checkpoint import SIZES, checkpoint_of
from benchmarks.ours import REPOSITORY, start_redis
from benchmarks.page_sections import replace_section, table
from benchmarks.processes import BenchError, ChildProcesses, require_free_port
from benchmarks.settings import BenchSettings
from services.worker.settings import threads_of_one_rank

GALEN, VLLM = "galen", "vllm serve"
MODEL = "bench"
KV_CACHE_GIB = 2
GPU_MEMORY_FRACTION = 0.4  # of each server: both live on one card
CPU_BLOCK_TOKENS = 32  # as `vllm_options.py` says
IN_CORE = "services.worker.engines.vllm_executor.InCoreExecutor"
TARGET_TOK_S, TARGET_TTFT = 1.5, 1.0  # T7
START_LIMIT_S = 300.0
SPINNING_S = 1.5  # vLLM's processes ask for work without a pause for 1 s after their last step
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
ON_CPU = {
    "OMP_WAIT_POLICY": "passive",  # as our worker
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Served(msgspec.Struct, frozen=True):
    """What both servers are told.

    Args:
        in_core: give `vllm serve` our executor for one CPU rank, too (decision 0017).
    """

    checkpoint: Path
    device: str
    slots: int
    context: int
    in_core: bool = False

    @property
    def dtype(self) -> str:
        """Of weights and computation."""
        return "float32" if self.device == "cpu" else "bfloat16"


class Measured(msgspec.Struct, frozen=True):
    """One load of one server."""

    party: str
    concurrency: int
    round_index: int
    load: StreamedLoad


@app.command()
def bench(  # noqa: PLR0913 - one parameter per option
    *,
    size: Annotated[str, typer.Option(help=f"Model: {', '.join(SIZES)}.")] = "tiny",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    concurrency: Annotated[str, typer.Option(help="Requests at once, by commas.")] = "16,32",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Requests per client and load.")] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 64,
    image_px: Annotated[int, typer.Option(min=28, help="Side of the images.")] = 80,
    in_core: Annotated[
        bool, typer.Option("--in-core", help="vllm serve with our executor for one CPU rank, too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Compare the platform with `vllm serve`; prints a section of Markdown."""
    if importlib.util.find_spec("vllm") is None:
        typer.echo("error: this interpreter has no vLLM; take .venv-vllm/bin/python", err=True)
        raise typer.Exit(2)
    at_once = sorted({int(each) for each in concurrency.split(",")})
    settings = BenchSettings()
    served = Served(
        checkpoint_of(size, settings.folder("models"), device),
        device,
        max(at_once),
        SIZES[size].context,
        in_core,
    )
    starters: dict[str, _Starter] = {GALEN: start_platform, VLLM: start_vllm}
    measured: list[Measured] = []
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            ports = {party: start(settings, children, served) for party, start in starters.items()}
            for port in ports.values():
                stream_all(port, _bodies(0, 0, 4, image_px, tokens), 4)  # warm-up
            for round_index, number in itertools.product(range(rounds), at_once):
                turns = list(ports) if round_index % 2 == 0 else list(reversed(ports))
                for party in turns:
                    time.sleep(SPINNING_S)
                    bodies = _bodies(round_index, number, number * requests, image_px, tokens)
                    load = stream_all(ports[party], bodies, number)
                    measured.append(Measured(party, number, round_index, load))
                    typer.echo(
                        f"{party} c={number}: {load.tok_s:.0f} tok/s, TTFT {load.ttft_ms:.0f} ms",
                        err=True,
                    )
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    section = render(measured, size, served, image_px)
    typer.echo(section)
    if out is not None:
        name = f"vllm-{size}-{device.partition(':')[0]}{'-in-core' if in_core else ''}"
        replace_section(out, name, section)


_Starter = Callable[[BenchSettings, ChildProcesses, Served], int]


def start_platform(settings: BenchSettings, children: ChildProcesses, served: Served) -> int:
    """Start Redis, one worker with the vLLM engine and one gateway; returns its port."""
    port = settings.port_base + 110
    require_free_port(port)
    socket_path, _ = start_redis(settings, children, is_durable=False)
    redis_url = f"unix://{socket_path}"
    children.start(
        "vllm_worker",
        [sys.executable, "-m", "services.worker.main"],
        env={
            "GALEN_WORKER_REDIS_URL": redis_url,
            "GALEN_WORKER_ENGINE": "vllm",
            "GALEN_WORKER_MODEL_ID": MODEL,
            "GALEN_WORKER_MODEL_PATH": str(served.checkpoint),
            "GALEN_WORKER_DEVICE": served.device,
            "GALEN_WORKER_DTYPE": served.dtype,
            "GALEN_WORKER_SLOTS": str(served.slots),
            "GALEN_WORKER_CONTEXT_LENGTH": str(served.context),
            "GALEN_WORKER_KV_CACHE_GIB": str(KV_CACHE_GIB),
            "GALEN_WORKER_GPU_MEMORY_FRACTION": str(GPU_MEMORY_FRACTION),
            "GALEN_WORKER_LOG_LEVEL": "warning",
        },
        cwd=REPOSITORY,
    )
    gateway = children.start(
        "vllm_gateway",
        [sys.executable, "-m", "services.gateway.main"],
        env={
            "GALEN_GATEWAY_REDIS_URL": redis_url,
            "GALEN_GATEWAY_PORT": str(port),
            "GALEN_GATEWAY_LOG_LEVEL": "warning",
        },
        cwd=REPOSITORY,
    )
    url = f"http://127.0.0.1:{port}/readyz"
    children.wait_until_ready("vllm_gateway", gateway, url, limit_s=START_LIMIT_S)
    return port


def start_vllm(settings: BenchSettings, children: ChildProcesses, served: Served) -> int:
    """Start `vllm serve` with the engine settings that our worker gives it; returns its port."""
    port = settings.port_base + 120
    require_free_port(port)
    on_cpu = served.device == "cpu"
    num_threads = threads_of_one_rank(sorted(os.sched_getaffinity(0)))
    server = children.start(
        "vllm_serve",
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", served.checkpoint, "--served-model-name", MODEL),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", served.dtype),
            *("--max-model-len", str(served.context), "--max-num-seqs", str(served.slots)),
            *("--load-format", "safetensors", "--generation-config", "vllm"),
            *("--limit-mm-per-prompt", '{"image": 16}'),
            *("--mm-processor-kwargs", '{"backend": "pil"}', "--mm-processor-cache-gb", "1"),
            *("--enable-prefix-caching", "--no-async-scheduling", "--disable-log-stats"),
            *("--disable-uvicorn-access-log",),
            *(("--enforce-eager", "--block-size", str(CPU_BLOCK_TOKENS)) if on_cpu else ()),
            *(("--distributed-executor-backend", IN_CORE) if served.in_core else ()),
            *(() if on_cpu else ("--gpu-memory-utilization", str(GPU_MEMORY_FRACTION))),
        ],
        env={
            **QUIET,
            **(ON_CPU if on_cpu else {}),
            **({"OMP_NUM_THREADS": str(num_threads)} if served.in_core else {}),
            "VLLM_USE_V2_MODEL_RUNNER": "0",
        },
        cwd=REPOSITORY,
    )
    url = f"http://127.0.0.1:{port}/health"
    children.wait_until_ready("vllm_serve", server, url, limit_s=START_LIMIT_S)
    return port


def _bodies(
    round_index: int, concurrency: int, count: int, image_px: int, tokens: int
) -> list[bytes]:
    """Return requests whose images no other load has; both servers get the same."""
    first = (round_index * 1000 + concurrency) * 100_000
    return [chat_body(MODEL, first + number, image_px, tokens) for number in range(count)]


def render(measured: Sequence[Measured], size: str, served: Served, image_px: int) -> str:
    """Return the section."""
    at_once = sorted({m.concurrency for m in measured})
    head = ("at once", "", "tok/s", "TTFT p50, ms", "tok/s ratio", "TTFT ratio")
    rows = [_row(measured, number, party) for number in at_once for party in (GALEN, VLLM)]
    command = shlex.join(["python", "-m", "benchmarks.vllm_platform", *sys.argv[1:]])
    return "\n".join(
        [
            f"## The platform with vLLM inside beside `vllm serve`: {size} on {served.device}",
            "",
            f"Streamed, images of {image_px} x {image_px} px, each shown once. Galen is Redis, one",
            "gateway and one worker; both run the same engine settings, without CUDA graphs on a",
            "CPU. They take turns; the idle one uses no CPU. Ratios: Galen to `vllm serve`.",
            *(_executors(served)),
            "",
            f"* {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`, "
            f"{1 + max(m.round_index for m in measured)} round(s); figures are medians over the "
            "rounds, ratios are medians of the rounds' ratios.",
            f"* {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB; "
            f"vLLM {version('vllm')}",
            *(_verdict(measured, number) for number in at_once),
            "",
            table(head, rows),
        ]
    )


def _executors(served: Served) -> list[str]:
    """Say where the engine's only rank lives, which decides most of the difference on a CPU."""
    if served.device != "cpu":
        return []
    theirs = "as here (`--in-core`)" if served.in_core else "in a process of its own, its default"
    return [f"One rank: here in the engine core (decision 0017), in `vllm serve` {theirs}."]


def _row(measured: Sequence[Measured], number: int, party: str) -> list[str]:
    loads = _loads(measured, number, party)
    tok_s, ttft = _ratios(measured, number)
    return [
        str(number),
        party,
        f"{statistics.median(load.tok_s for load in loads):.0f}",
        f"{statistics.median(load.ttft_ms for load in loads):.1f}",
        *((f"{tok_s:.2f}", f"{ttft:.2f}") if party == GALEN else ("", "")),
    ]


def _loads(measured: Sequence[Measured], number: int, party: str) -> list[StreamedLoad]:
    """Return the loads of one server at one concurrency, by round."""
    found = [m for m in measured if (m.concurrency, m.party) == (number, party)]
    return [m.load for m in sorted(found, key=lambda m: m.round_index)]


def _ratios(measured: Sequence[Measured], number: int) -> tuple[float, float]:
    pairs = list(zip(*(_loads(measured, number, p) for p in (GALEN, VLLM)), strict=True))
    return (
        statistics.median(ours.tok_s / theirs.tok_s for ours, theirs in pairs),
        statistics.median(ours.ttft_ms / theirs.ttft_ms for ours, theirs in pairs),
    )


def _verdict(measured: Sequence[Measured], number: int) -> str:
    tok_s, ttft = _ratios(measured, number)
    said = "met" if tok_s >= TARGET_TOK_S and ttft <= TARGET_TTFT else "missed"
    return (
        f"* T7, {number} at once: {tok_s:.2f} x the tok/s (target {TARGET_TOK_S} x), "
        f"{ttft:.2f} x the TTFT (target {TARGET_TTFT} x): {said}."
    )


if __name__ == "__main__":
    app()
