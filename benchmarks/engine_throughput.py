"""Measures the transformers engine beside plain `generate`, one request at a time.

`generate` one request after the other is what LLaVA-Med's own worker does. Both run on the same
checkpoint, in processes of their own, in turn, and get the same requests: a question, an image,
answers of one length. No gateway and no Redis: `vllm_platform.py` and `run.py` measure those.

Run: python -m benchmarks.engine_throughput --help
"""

import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import torch
import typer

from benchmarks.generation_child import Load, LoadResult
from benchmarks.large_checkpoint import SIZES, checkpoint_of
from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from benchmarks.processes import BenchError
from benchmarks.settings import BenchSettings, child_environment
from modeling.checkpoint_files import open_checkpoint
from modeling.memory_forecast import Layout, needed_bytes, overhead_bytes
from modeling.model_shape import ModelShape, shape_of_files
from services.worker.engines.slot_cache import grown_positions

ENGINE, GENERATE = "engine", "generate"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
DEFAULT_TOKENS = 64
TARGET_RATIO = 8.0  # T8, at 16 requests
TARGET_CONCURRENCY = 16
PLAIN = "none"
QUANTIZED = ("bnb-int8", "bnb-nf4")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Measured(msgspec.Struct, frozen=True):
    """One load of one party."""

    mode: str
    party: str
    round_index: int
    load: Load
    result: LoadResult

    @property
    def tok_s(self) -> float:
        """Generated tokens per second, prefill included."""
        return self.result.num_tokens / self.result.wall_s


class GenerationChild:
    """A party in its process."""

    def __init__(self, party: str, checkpoint: Path, options: dict[str, str], batch: int) -> None:
        self.party = party
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.generation_child", party, checkpoint),
                *(msgspec.json.encode(options).decode(), str(batch)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env=child_environment({}),
            text=True,
        )

    def wait_until_loaded(self) -> None:
        """Return when it can take a load."""
        self._read()

    def run(self, load: Load) -> LoadResult:
        """Give it a load and wait for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(load).decode() + "\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._read(), type=LoadResult)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        """Return its next line of results; what an engine logs is passed on."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() == "" or line.startswith('{"wall_s"'):
                return line
            sys.stderr.write(line)
        raise BenchError(f"the process of {self.party} ended; see its output above")


@app.command()
def bench(  # noqa: PLR0913 - one parameter per option
    *,
    size: Annotated[str, typer.Option(help=f"Model: {', '.join(SIZES)}.")] = "100m",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    concurrency: Annotated[str, typer.Option(help="Requests at once, by commas.")] = "1,16,64",
    modes: Annotated[str, typer.Option(help="Quantizations, by commas; default: by device.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; figures are medians.")] = 3,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = DEFAULT_TOKENS,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Compare the transformers engine with `generate`; prints a section of Markdown."""
    at_once = sorted({int(each) for each in concurrency.split(",")})
    wanted = modes.split(",") if modes else [PLAIN, *(QUANTIZED if device != "cpu" else ())]
    checkpoint = checkpoint_of(size, BenchSettings().folder("models"), device)
    measured: list[Measured] = []
    try:
        for mode in wanted:
            options = {"device": device, "quantization": mode}
            with _parties(checkpoint, options, max(at_once)) as parties:
                loads = _loads(at_once, tokens, SIZES[size].image_px, rounds)
                measured += _measure(parties, mode, loads, rounds)
    except BenchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    section = render(measured, size, device, checkpoint)
    typer.echo(section)
    if out is not None:
        name = f"engines-{size}-{device.partition(':')[0]}"
        replace_section(out, name if tokens == DEFAULT_TOKENS else f"{name}-{tokens}", section)


@contextmanager
def _parties(
    checkpoint: Path, options: dict[str, str], batch: int
) -> Iterator[Sequence[GenerationChild]]:
    children: list[GenerationChild] = []
    try:
        for party in (ENGINE, GENERATE):
            children.append(GenerationChild(party, checkpoint, options, batch))
            children[-1].wait_until_loaded()
        yield children
    finally:
        for child in children:
            child.close()


def _loads(at_once: Sequence[int], tokens: int, image_px: int, rounds: int) -> list[list[Load]]:
    """Return one list per round; images never repeat."""
    return [
        [
            Load(number, max(4, 2 * number), tokens, image_px, seed=1 + round_index * 1000 + number)
            for number in at_once
        ]
        for round_index in range(rounds)
    ]


def _measure(
    parties: Sequence[GenerationChild], mode: str, loads: Sequence[Sequence[Load]], rounds: int
) -> Iterator[Measured]:
    warm_up = msgspec.structs.replace(loads[0][0], num_requests=2, seed=0)
    for party in parties:
        party.run(warm_up)
    for round_index in range(rounds):
        for load in loads[round_index]:
            turn = round_index % len(parties)
            for party in (*parties[turn:], *parties[:turn]):
                given = load
                if party.party == GENERATE:  # one at a time: more requests would say no more
                    given = msgspec.structs.replace(load, num_requests=min(load.num_requests, 8))
                done = Measured(mode, party.party, round_index, load, party.run(given))
                typer.echo(
                    f"{mode} {party.party} c={load.concurrency}: {done.tok_s:.1f} tok/s", err=True
                )
                yield done


def render(measured: Sequence[Measured], size: str, device: str, checkpoint: Path) -> str:
    """Return the section."""
    shape = shape_of_files(open_checkpoint(checkpoint))
    keys = sorted(
        {(m.mode, m.load.concurrency) for m in measured}, key=lambda k: (k[0] != PLAIN, *k)
    )
    rows = [
        [
            *_row(measured, mode, concurrency),
            forecast_mb(shape, _of(measured, mode, concurrency, ENGINE)[0], device),
        ]
        for mode, concurrency in keys
    ]
    first = measured[0]
    model = SIZES[size]
    prompt_tokens = first.result.prompt_tokens // max(1, first.load.num_requests)
    head = (
        *("weights", "at once", "engine tok/s", "generate tok/s", "ratio", "TTFT s", "TPOT ms"),
        *("prefill tok/s", "generate TPOT ms", "engine MB", "generate MB", "planner MB"),
    )
    lines = [
        f"## Transformers engine beside `generate`: {size} on {device}",
        "",
        "The engine batches; `generate` answers one request after the other, as LLaVA-Med's own",
        f"worker does. Random LLaVA of {model.layers} layers, {model.width} wide; an image of",
        f"{model.image_px} px and a question make {prompt_tokens} prompt tokens; answers have",
        f"{first.load.num_tokens} tokens. Tok/s count the prefill's time, too. MB: on the GPU",
        "the most that torch held, else the largest resident set of the process; planner:",
        "its bound for as many requests, with positions as the cache reserves them.",
        "",
        f"* {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{_command()}`, "
        f"{1 + max(m.round_index for m in measured)} round(s); figures are medians over the "
        "rounds, ratios are medians of the rounds' ratios.",
        f"* {_machine(device)}",
        f"* python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}",
        *_verdict(measured),
        "",
        table(head, rows),
    ]
    return "\n".join(lines)


def _row(measured: Sequence[Measured], mode: str, concurrency: int) -> list[str]:
    engine, generate = (_of(measured, mode, concurrency, p) for p in (ENGINE, GENERATE))
    return [
        "as stored" if mode == PLAIN else mode,
        str(concurrency),
        f"{statistics.median(m.tok_s for m in engine):.1f}",
        f"{statistics.median(m.tok_s for m in generate):.1f}",
        f"{_ratio(measured, mode, concurrency):.2f}",
        f"{statistics.median(m.result.ttft_s for m in engine):.3f}",
        f"{statistics.median(m.result.tpot_s for m in engine) * 1e3:.1f}",
        _prefill_rate(engine) if concurrency == 1 else "",
        f"{statistics.median(m.result.tpot_s for m in generate) * 1e3:.1f}",
        f"{max(_megabytes(m) for m in engine):.0f}",
        f"{max(_megabytes(m) for m in generate):.0f}",
    ]


def forecast_mb(shape: ModelShape, measured: Measured, device: str) -> str:
    """Return what the planner says of a load: on a GPU without a process's overhead, as torch."""
    load, result = measured.load, measured.result
    layout = Layout(
        dtype=shape.dtype or "float32",
        quantization=measured.mode,  # type: ignore[arg-type]  # one of these words
        is_cpu=device == "cpu",
    )
    # The worker's own check counts whole contexts; here it is what the engine's cache grows to.
    prompt_tokens = result.prompt_tokens // max(1, load.num_requests)
    reserved = grown_positions(0, prompt_tokens + 1, shape.max_context)
    while reserved < prompt_tokens + load.num_tokens:
        reserved = grown_positions(reserved, reserved + 1, shape.max_context)
    num_bytes = needed_bytes(shape, layout, reserved, load.concurrency)
    if not layout.is_cpu:
        num_bytes -= overhead_bytes(layout)
    return f"{num_bytes / 1e6:.0f}"


def _of(measured: Sequence[Measured], mode: str, concurrency: int, party: str) -> list[Measured]:
    return [
        m for m in measured if (m.mode, m.load.concurrency, m.party) == (mode, concurrency, party)
    ]


def _ratio(measured: Sequence[Measured], mode: str, concurrency: int) -> float:
    pairs = zip(*(_of(measured, mode, concurrency, p) for p in (ENGINE, GENERATE)), strict=True)
    return statistics.median(engine.tok_s / generate.tok_s for engine, generate in pairs)


def _prefill_rate(engine: Sequence[Measured]) -> str:
    """Prompt tokens per second: alone, the time to the first token is that of its prefill."""
    rates = (m.result.prompt_tokens / m.load.num_requests / m.result.ttft_s for m in engine)
    return f"{statistics.median(rates):.0f}"


def _megabytes(measured: Measured) -> float:
    return measured.result.peak_gpu_mb or measured.result.peak_rss_mb


def _verdict(measured: Sequence[Measured]) -> list[str]:
    if not _of(measured, PLAIN, TARGET_CONCURRENCY, ENGINE):
        return []
    ratio = _ratio(measured, PLAIN, TARGET_CONCURRENCY)
    said = "met" if ratio >= TARGET_RATIO else "missed"
    return [
        f"* T8, {TARGET_CONCURRENCY} requests at once: {ratio:.2f} x `generate`, target "
        f"{TARGET_RATIO:.0f} x: {said}."
    ]


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks.engine_throughput", *sys.argv[1:]])


def _machine(device: str) -> str:
    memory_gb = psutil.virtual_memory().total / 1e9
    name = f"{psutil.cpu_count()} cores, {memory_gb:.0f} GB"
    return name if device == "cpu" else f"{torch.cuda.get_device_name(device)}, {name}"


if __name__ == "__main__":
    app()
