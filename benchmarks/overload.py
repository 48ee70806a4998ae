"""Measures goal G6: what is answered, and how fast the rest is refused, beyond capacity.

One worker with the fake engine; open arrivals at twice its capacity, with text and with images of
which none is sent twice; then ten times the usual load for a while, and back.

Run: python -m benchmarks.overload --help
"""

import asyncio
import base64
import io
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import psutil
import typer
from PIL import Image

from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import (
    Asked,
    Flow,
    body,
    percentile,
    send_closed,
    send_open,
    start_platform,
    ttft_ms,
)

SLOTS = 16
MAX_WAITING = 2
"""In all: a request waits for no more than two slots, about a tenth of a second."""
MEAN_LENGTH = 32
CLOCK = "t=200 d=20"
"""About 0.84 s: 19 requests per second."""
IMAGE_PX = 640
NUM_IMAGES = 600
USUAL = 0.5
SPIKE = 10

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Make = Callable[[], bytes]


class Kind(msgspec.Struct, frozen=True):
    """What is sent."""

    name: str
    make: Make


async def _overload(port: int, kind: Kind, seconds: float, seed: int) -> list[list[str]]:
    full = await send_closed(port, Flow("t", 0.0, kind.make), SLOTS + MAX_WAITING, seconds / 2)
    capacity = sum(a.status == 200 for a in full) / (seconds / 2)
    unloaded = await send_open(port, [Flow("t", 0.2 * capacity, kind.make)], seconds / 2, seed)
    asked = await send_open(port, [Flow("t", 2 * capacity, kind.make)], seconds, seed)
    answered = [a for a in asked if a.status == 200]
    refused = [a for a in asked if a.status == 503]
    others = len(asked) - len(answered) - len(refused)
    goodput = len(answered) / seconds / capacity
    before, after = ttft_ms(unloaded, 0.95), ttft_ms(answered, 0.95)
    at_client = percentile([a.total_s for a in refused], 0.99) * 1e3
    decided = percentile([a.decided_us for a in refused], 0.99) / 1e3
    waits = sorted(a.retry_after_s for a in refused)
    spread = f"{waits[0]} to {waits[-1]} s" if waits else "-"
    return [
        goal_row(
            f"{kind.name}: goodput at 2 x capacity ({capacity:.1f}/s)",
            f"{goodput:.0%}",
            ">= 90 %",
            goodput >= 0.9,
        ),
        goal_row(
            f"{kind.name}: refusal at the client p99, {len(refused)} of {len(asked)}",
            f"{at_client:.1f} ms",
            "<= 50 ms",
            at_client <= 50,
        ),
        goal_row(
            f"{kind.name}: decision in the gateway p99 (p50 "
            f"{percentile([a.decided_us for a in refused], 0.5) / 1e3:.2f} ms)",
            f"{decided:.2f} ms",
            "<= 5 ms",
            decided <= 5,
        ),
        goal_row(
            f"{kind.name}: TTFT p95 of the answered (unloaded {before:.0f} ms)",
            f"{after:.0f} ms, {after / before:.2f} x",
            "<= 2 x",
            after <= 2 * before,
        ),
        goal_row(f"{kind.name}: Retry-After", spread, "1 to 60 s", not waits or waits[0] >= 1),
        goal_row(f"{kind.name}: neither answered nor refused", str(others), "0", others == 0),
    ]


async def _spike(port: int, kind: Kind, seconds: float, seed: int) -> list[list[str]]:
    capacity = SLOTS / (0.2 + 0.02 * MEAN_LENGTH)
    usual = Flow("t", USUAL * capacity, kind.make)
    before = await send_open(port, [usual], seconds / 2, seed)
    spike = Flow("t", SPIKE * USUAL * capacity, kind.make)
    during = await send_open(port, [spike], seconds, seed)
    after = await send_open(port, [usual], 30.0, seed + 1)
    normal_s = _seconds_until_normal(after, 1.2 * ttft_ms(before, 0.95))
    failed = sum(a.status not in (200, 503) for a in (*before, *during, *after))
    return [
        goal_row(
            f"{SPIKE} x spike of {seconds:.0f} s: neither answered nor refused",
            str(failed),
            "0",
            failed == 0,
        ),
        goal_row("normal again after", f"{normal_s:.0f} s", "<= 30 s", normal_s <= 30),
    ]


def _seconds_until_normal(asked: Sequence[Asked], limit_ms: float) -> float:
    """Return the end of the last second with a refusal, or a first text later than the limit."""
    began = min(a.began for a in asked)
    late = [
        a.began - began + 1.0
        for a in asked
        if a.status != 200 or a.ttft_s is None or a.ttft_s * 1e3 > limit_ms
    ]
    return max(late, default=0.0)


def _texts(seed: int) -> Make:
    draw = random.Random(seed)
    return lambda: body(f"n={round(MEAN_LENGTH * draw.uniform(0.5, 1.5))} {CLOCK}")


def _images(seed: int) -> Make:
    """Return a maker of requests whose images all differ: no decoding is spared."""
    draw, urls = random.Random(seed), itertools.cycle(_urls(seed))
    return lambda: body(f"n={round(MEAN_LENGTH * draw.uniform(0.5, 1.5))} {CLOCK}", next(urls))


def _urls(seed: int) -> Iterator[str]:
    """Yield JPEGs of noise that repeat only after many; each differs in its comment and pixels."""
    noise = np.random.default_rng(seed)
    base = noise.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    for index in range(NUM_IMAGES):
        file = io.BytesIO()
        Image.fromarray(np.roll(base, index, axis=0)).save(file, "JPEG", quality=75)
        yield f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


async def _measure(port: int, seconds: float, seed: int) -> list[list[str]]:
    rows = await _overload(port, Kind("text", _texts(seed)), seconds, seed)
    rows += await _overload(port, Kind("images", _images(seed)), seconds, seed)
    return rows + await _spike(port, Kind("text", _texts(seed)), seconds, seed)


@app.command()
def bench(
    *,
    seconds: Annotated[float, typer.Option(min=4, help="Length of each overload.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure a gateway beyond its capacity; prints a section of Markdown."""
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
        f"One worker with {SLOTS} slots and the fake engine (`{CLOCK}`, {MEAN_LENGTH} tokens,",
        f"varied by half up and down), at most {MAX_WAITING} requests waiting, open arrivals.",
        f"*Images*: JPEGs of {IMAGE_PX} px, none of which is still in a cache. *Decision*: from",
        "the last byte of the body to the headers of the refusal.",
    )
    section = MeasuredSection(
        "overload",
        "Beyond capacity (G6)",
        what_ran,
        rows,
        busy_before,
    )
    section.publish(out)


if __name__ == "__main__":
    app()
