"""Measures goal G9: what one tenant, or batch work, may do to the others.

Ten tenants on one worker with the fake engine: one of them sends 50 times as much as each other;
then all have more waiting than they get, with requests of different lengths; then interactive
requests run alone and beside a backlog in the batch lane.

Run: python -m benchmarks.fairness --help
"""

import asyncio
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import (
    Asked,
    Flow,
    body,
    send_closed,
    send_open,
    start_platform,
    ttft_ms,
)

SLOTS = 64
MAX_WAITING = 4096
TENANTS = 10
TIMES = 50
MEAN_LENGTH = 32
CLOCK = "t=200 d=60"
"""With the mean length about 2.1 s: 30 requests per second on 64 slots."""
PER_S = 0.7
"""Of each ordinary tenant: less than its share, which is 3."""
INTERACTIVE_PER_S = 4.0
LENGTHS = (8, 16, 24, 32, 48, 64)
CLIENTS_EACH = 24

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _answer(draw: random.Random, length: int) -> bytes:
    """Of half to one and a half times the length: equal ones would end, and begin, together."""
    return body(f"n={max(1, round(length * draw.uniform(0.5, 1.5)))} {CLOCK}")


async def _abuse(port: int, seconds: float, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    others = [Flow(f"t{i}", PER_S, partial(_answer, draw, MEAN_LENGTH)) for i in range(TENANTS - 1)]
    alone = await send_open(port, others, seconds, seed)
    abuser = Flow("abuser", TIMES * PER_S, partial(_answer, draw, MEAN_LENGTH))
    both = await send_open(port, [*others, abuser], seconds, seed)
    beside = [a for a in both if a.tenant != "abuser"]
    before, after = ttft_ms(alone, 0.95), ttft_ms(beside, 0.95)
    of_abuser = [a for a in both if a.tenant == "abuser"]
    refused = sum(a.status != 200 for a in beside)
    return [
        goal_row("others' TTFT p95, alone", f"{before:.0f} ms", "", None),
        goal_row(
            f"others' TTFT p95, beside one at {TIMES} x (its own p95: "
            f"{ttft_ms(of_abuser, 0.95) / 1e3:.1f} s)",
            f"{after:.0f} ms, {after / before:.2f} x",
            "<= 1.5 x",
            after <= 1.5 * before,
        ),
        goal_row("others' requests refused or failed", str(refused), "0", refused == 0),
    ]


async def _shares(port: int, seconds: float, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    began = time.monotonic()
    flows = [
        Flow(
            f"s{index}",
            0.0,
            partial(_answer, draw, LENGTHS[index % len(LENGTHS)]),
        )
        for index in range(TENANTS)
    ]
    at_once = [5 * CLIENTS_EACH if not index else CLIENTS_EACH for index in range(TENANTS)]
    results = await asyncio.gather(
        *(send_closed(port, flow, n, seconds) for flow, n in zip(flows, at_once, strict=True))
    )
    asked = [each for result in results for each in result]
    window = (began + 0.2 * seconds, began + seconds)  # all have something waiting
    given = _tokens_within(asked, *window)
    jain = _jain([given[flow.tenant] for flow in flows])
    worst = min(
        min(_ratios(asked, flows, at, at + 10.0))
        for at in (window[0] + 1.0 * step for step in range(max(1, int(window[1] - window[0] - 9))))
    )
    return [
        goal_row("Jain index of tokens, all backlogged", f"{jain:.4f}", ">= 0.95", jain >= 0.95),
        goal_row(
            "least share of any tenant in any 10 s, of its fair one",
            f"{worst:.2f}",
            ">= 0.5",
            worst >= 0.5,
        ),
    ]


def _tokens_within(asked: list[Asked], since: float, until: float) -> Counter[str]:
    """Count prompt-free tokens: all prompts have the same two words."""
    given = Counter[str]()
    for each in asked:
        given[each.tenant] += sum(since <= at < until for at in each.token_times)
    return given


def _ratios(asked: list[Asked], flows: list[Flow], since: float, until: float) -> list[float]:
    given = _tokens_within(asked, since, until)
    fair = sum(given.values()) / len(flows)
    return [given[flow.tenant] / fair for flow in flows]


def _jain(values: list[int]) -> float:
    """Jain, Chiu, Hawe 1984: 1 where all get the same, 1/n where one gets everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


async def _batch(port: int, seconds: float, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    interactive = Flow("doctor", INTERACTIVE_PER_S, partial(_answer, draw, MEAN_LENGTH))
    alone = await send_open(port, [interactive], seconds, seed)
    backlog = Flow("study", 0.0, partial(_answer, draw, MEAN_LENGTH), "batch")
    filling = asyncio.create_task(send_closed(port, backlog, 6 * SLOTS, seconds))
    await asyncio.sleep(1.0)
    beside = await send_open(port, [interactive], seconds - 1.0, seed)
    done = await filling
    before, after = ttft_ms(alone, 0.95), ttft_ms(beside, 0.95)
    rate = sum(a.status == 200 for a in done) / seconds
    return [
        goal_row("interactive TTFT p95, alone", f"{before:.0f} ms", "", None),
        goal_row(
            f"interactive TTFT p95, beside {rate:.1f} batch requests/s",
            f"{after:.0f} ms, {after / before:.2f} x",
            "<= 1.2 x",
            after <= 1.2 * before,
        ),
    ]


async def _measure(port: int, seconds: float, seed: int) -> list[list[str]]:
    rows = await _abuse(port, seconds, seed)
    rows += await _shares(port, seconds, seed)
    rows += await _batch(port, seconds, seed)
    return rows


@app.command()
def bench(
    *,
    seconds: Annotated[float, typer.Option(min=12, help="Length of each of five loads.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure fairness between tenants and between lanes; prints a section of Markdown."""
    settings = BenchSettings()
    busy_before = psutil.getloadavg()[0]
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            port = start_platform(settings, children, slots=SLOTS, max_waiting=MAX_WAITING)
            rows = asyncio.run(_measure(port, seconds, seed))
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    what_ran = (
        f"One worker with {SLOTS} slots and the fake engine (`{CLOCK}`: first token after 200 ms,",
        f"then one every 60 ms; {MEAN_LENGTH} tokens, varied by half up and down), open arrivals:",
        f"nine tenants at {PER_S:g} request/s, one at {TIMES * PER_S:g}. *All backlogged*: closed",
        f"loops of {CLIENTS_EACH} requests each (one of {5 * CLIENTS_EACH}), lengths",
        f"{LENGTHS[0]} to {LENGTHS[-1]} tokens by tenant, varied as above.",
    )
    section = MeasuredSection(
        "fairness",
        "Fairness: ten tenants, and batch beside interactive (G9)",
        what_ran,
        rows,
        busy_before,
    )
    section.publish(out)


if __name__ == "__main__":
    app()
