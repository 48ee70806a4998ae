"""Simulates waiting at 1 to 1,000 workers: by load, beside a flood and a batch, and after losses.

Times of service are of cards that others measured (`CARDS` says who and when); Galen has not been
measured on one yet. The first table stands beside Erlang's formula, the last one beside a real
gateway, Redis and worker with the fake engine, given the same requests at the same moments.

Run: python -m benchmarks.queue_simulation --help
"""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import psutil
import typer

from benchmarks.page_sections import replace_section, table
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.queue_model import (
    Cluster,
    Loss,
    QueueModel,
    Request,
    Traffic,
    most_load,
    wait_quantile_s,
)
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import ask, body, percentile, start_platform

SIZES = (1, 10, 100, 1000)
LOADS = (0.8, 0.9, 0.95)
LIMIT_S = 1.0
ANSWER_TOKENS = 100
LOST_SHARE = 0.1
LOSS_LOAD = 0.85
BACK_S = 120.0
"""Until a worker is back: a new pod, or the model's loading."""
NOTICE_S = 4.0
"""Its lease (3 s) and the gateway's look at it (1 s): a machine that is gone tells nobody."""
REAL_SLOTS, REAL_LOAD, REAL_TOKEN_S, REAL_TOKENS = 8, 0.9, 0.02, 60
_SKIPPED = 0.25
"""Share of the simulated time that is not looked at: the queue begins empty."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Card:
    """What a card does when all of its slots are taken.

    Args:
        slots: requests at once.
        mean_s: of a request of ANSWER_TOKENS.
        prefill_s: of it, until the first token.
        source: who measured it.
    """

    name: str
    slots: int
    mean_s: float
    prefill_s: float
    source: str


CARDS = (
    Card(
        "RTX 4090, 24 GB", 32, 32 / 9.73, 0.362,
        "32 at once, 9.73 requests/s, TTFT 362 ms: Mistral-7B in vLLM, 256 tokens in, about 100 out"
        " (mushfiqrahman.dev/?p=1668, read 2026-11-29)",
    ),
    Card(
        "H100, 80 GB", 16, 0.04169 + ANSWER_TOKENS * 0.01094, 0.042,
        "16 at once, TTFT 41.7 ms, 10.94 ms a token: Llama-3.1-8B, fp16, vLLM 0.21"
        " (InferenceBench's concurrency sweep of 2026-05-16, read 2026-11-29)",
    ),
)  # fmt: skip


def _exponential(mean_s: float, draw: random.Random) -> float:
    return draw.expovariate(1 / mean_s)


def _ms(values: Iterable[float]) -> list[str]:
    """Return the median, and what 95 and 99 of 100 stay below, in milliseconds."""
    ordered = list(values)
    return [f"{1e3 * percentile(ordered, share):,.0f}" for share in (0.5, 0.95, 0.99)]


def _seen(model: QueueModel, seconds: float) -> list[Request]:
    return [each for each in model.started if each.arrived_s > _SKIPPED * seconds]


def by_load(card: Card, num_requests: int) -> list[list[str]]:
    """Return rows of the waiting time at each size and load, and of what Erlang says to it."""
    rows: list[list[str]] = []
    for workers in SIZES:
        for load in LOADS:
            servers = workers * card.slots
            per_s = servers * load / card.mean_s
            # so long that the slots of a large platform turn over a few times, too
            seconds = max(num_requests / per_s, 5 * card.mean_s / (1 - _SKIPPED))
            model = QueueModel(Cluster(workers, card.slots), seed=workers)
            model.run(seconds, [Traffic("t", per_s, lambda draw: _exponential(card.mean_s, draw))])
            simulated = _ms(each.waited_s for each in _seen(model, seconds))
            formula = [
                f"{1e3 * wait_quantile_s(servers, load, card.mean_s, share):,.0f}"
                for share in (0.5, 0.95, 0.99)
            ]
            both = [f"{one} ({other})" for one, other in zip(simulated, formula, strict=True)]
            rows.append([f"{workers:,}", f"{load:.0%}", f"{per_s:,.1f}", *both])
    return rows


def by_size(cards: Sequence[Card]) -> list[list[str]]:
    """Return rows of what each size can take while 99 of 100 requests wait a second at most."""
    rows: list[list[str]] = []
    for card in cards:
        for workers in SIZES:
            load = most_load(workers * card.slots, card.mean_s, 0.99, LIMIT_S)
            per_s = workers * card.slots * load / card.mean_s
            rows.append([
                card.name, f"{workers:,}", f"{load:.1%}", f"{per_s:,.1f}",
                f"{per_s * ANSWER_TOKENS:,.0f}",
            ])  # fmt: skip
    return rows


def by_rules(card: Card) -> list[list[str]]:
    """Return rows of what light tenants wait beside a flood and a batch, with and without rules."""
    workers, seconds = 10, 240.0
    servers = workers * card.slots
    service = lambda draw: _exponential(card.mean_s, draw)  # noqa: E731 - it is passed on twice
    light = [Traffic(f"t{n}", 0.05 * servers / card.mean_s, service) for n in range(8)]
    flood = Traffic("flood", 2.0 * servers / card.mean_s, service)
    batch = Traffic("batch", 2.0 * servers / card.mean_s, service, "batch")
    cluster = Cluster(workers, card.slots)
    unfair = Cluster(workers, card.slots, is_fair=False)
    reserving = Cluster(workers, card.slots, card.slots // 8)
    cases = [
        ("eight tenants, 40% load", cluster, light),
        ("and one that sends twice what all can do", cluster, [*light, flood]),
        ("the same, first come first served", unfair, [*light, flood]),
        ("eight tenants beside a batch, none reserved", cluster, [*light, batch]),
        (f"the same, {card.slots // 8} of {card.slots} slots reserved", reserving, [*light, batch]),
    ]
    rows: list[list[str]] = []
    for name, ruled, traffic in cases:
        model = QueueModel(ruled, seed=1)
        model.run(seconds, traffic)
        seen = [each for each in _seen(model, seconds) if each.tenant.startswith("t")]
        rows.append([name, *_ms(each.waited_s for each in seen)])
    return rows


def by_loss(card: Card) -> list[list[str]]:
    """Return rows of a tenth of all workers dying at once."""
    rows: list[list[str]] = []
    for workers in SIZES[1:]:
        servers = workers * card.slots
        at_s = 10 * card.mean_s
        per_s = servers * LOSS_LOAD / card.mean_s
        loss = Loss(at_s, round(LOST_SHARE * workers), NOTICE_S, card.prefill_s, BACK_S)
        seconds = at_s + BACK_S + 60
        model = QueueModel(Cluster(workers, card.slots), seed=workers)
        traffic = [Traffic("t", per_s, lambda draw: _exponential(card.mean_s, draw))]
        model.run(seconds, traffic, [loss])
        during = [each for each in model.started if at_s < each.arrived_s < at_s + BACK_S]
        before = [each for each in model.started if at_s / 2 < each.arrived_s < at_s]
        rows.append([
            f"{workers:,}", f"{len(model.interrupted):,}",
            *_ms(each.paused_s for each in model.interrupted)[::2],
            f"{1e3 * percentile([each.waited_s for each in before], 0.99):,.0f}",
            f"{1e3 * percentile([each.waited_s for each in during], 0.99):,.0f}",
        ])  # fmt: skip
    return rows


def draw_trace(seconds: float, seed: int) -> list[tuple[float, int]]:
    """Return when requests come and how many tokens they get, for one worker."""
    draw = random.Random(seed)
    per_s = REAL_SLOTS * REAL_LOAD / (REAL_TOKENS * REAL_TOKEN_S)
    trace: list[tuple[float, int]] = []
    at_s = draw.expovariate(per_s)
    while at_s < seconds:
        trace.append((at_s, max(1, min(9_000, round(draw.expovariate(1 / REAL_TOKENS))))))
        at_s += draw.expovariate(per_s)
    return trace


async def _ask_all(port: int, trace: Sequence[tuple[float, int]]) -> list[float]:
    """Send a trace to a real platform; return each request's time to the first token."""
    steering = f"d={1000 * REAL_TOKEN_S:g}"
    await ask(port, body(f"n=1 {steering}"), "trace")
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for at_s, tokens in trace:
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            request = body(f"n={tokens} t={1000 * REAL_TOKEN_S:g} {steering}")
            sending = ask(port, request, "trace", due=began + at_s)
            tasks.append(group.create_task(sending))
    asked = [task.result() for task in tasks]
    if any(each.ttft_s is None for each in asked):
        raise BenchError("a request of the trace was not answered")
    return [each.ttft_s - REAL_TOKEN_S for each in asked if each.ttft_s is not None]


def beside_the_real_one(settings: BenchSettings, seconds: float, seed: int) -> list[list[str]]:
    """Return rows of simulated and real waiting times of the same requests."""
    trace = draw_trace(seconds, seed)
    model = QueueModel(Cluster(1, REAL_SLOTS), seed)
    model.run(10 * seconds, trace=[(at_s, tokens * REAL_TOKEN_S) for at_s, tokens in trace])
    simulated = [each.waited_s for each in sorted(model.started, key=lambda each: each.arrived_s)]
    with ChildProcesses(settings.folder("logs")) as children:
        port = start_platform(settings, children, slots=REAL_SLOTS, max_waiting=4096)
        real = asyncio.run(_ask_all(port, trace))
    differences = [abs(one - other) for one, other in zip(simulated, real, strict=True)]
    compared = {
        "simulated": simulated,
        "real": real,
        "difference, request by request": differences,
    }
    return [[name, *_ms(waits), f"{1e3 * fmean(waits):,.0f}"] for name, waits in compared.items()]


@app.command()
def bench(
    *,
    requests: Annotated[
        int, typer.Option(min=1000, help="Of each load that is simulated.")
    ] = 60_000,
    seconds: Annotated[float, typer.Option(min=5, help="Length of the real load.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the real load.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Page that gets the sections.")] = None,
) -> None:
    """Simulate the queue, and compare with a real one; prints sections of Markdown."""
    busy_before = psutil.getloadavg()[0]
    try:
        real = beside_the_real_one(BenchSettings(), seconds, seed)
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    text = "\n".join(_page(requests, seconds, busy_before, real))
    typer.echo(text)
    if out is not None:
        replace_section(out, "queue-simulation", text)


def _page(
    requests: int, seconds: float, busy_before: float, real: Sequence[Sequence[str]]
) -> list[str]:
    """Return the lines of the section."""
    waits = ("wait p50, ms", "p95", "p99")
    card = CARDS[0]
    sources = [f"- {each.name}: {each.source}." for each in CARDS]
    losses = ("workers", "interrupted", "pause p50, ms", "p99", "wait p99 before, ms", "after")
    return [
        "## The queue, simulated",
        "",
        f"Answers of {ANSWER_TOKENS} tokens on average, exponentially distributed. A full card:",
        "",
        *sources,
        "",
        f"**By load**: {card.name}, {card.slots} slots of {card.mean_s:.2f} s a request; at least",
        f"{requests:,} requests each; in brackets Erlang's formula. Near 100% a queue takes longer",
        "than such a run to settle: there the formula counts.",
        "",
        table(("workers", "load", "requests/s", *waits), by_load(card, requests)),
        "",
        f"**By size** (formula): the load at which 99 of 100 requests wait {LIMIT_S:g} s at most.",
        "",
        table(("card", "workers", "load", "requests/s", "tokens/s"), by_size(CARDS)),
        "",
        f"**Rules**: 10 workers, {card.name}: what eight light tenants wait.",
        "",
        table(("traffic", *waits), by_rules(card)),
        "",
        f"**Loss** of {LOST_SHARE:.0%} of the workers at once, without a word, at {LOSS_LOAD:.0%}",
        f"load, {card.name}; they are back after {BACK_S:g} s.",
        "",
        table(losses, by_loss(card)),
        "",
        f"**Beside a real one**: gateway, Redis and a worker of {REAL_SLOTS} slots with the fake",
        f"engine (on average {REAL_TOKENS} tokens of {1000 * REAL_TOKEN_S:g} ms), the same ones",
        f"at the same moments, {seconds:g} s at {REAL_LOAD:.0%} load; load average of the machine",
        f"before: {busy_before:.1f}.",
        "",
        table(("", *waits, "mean"), real),
    ]


if __name__ == "__main__":
    app()
