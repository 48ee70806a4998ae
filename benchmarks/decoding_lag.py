"""Measures goal G10: whether the gateway turns while it has large images decoded.

Fifty JPEGs of 20 megapixels come as fast as they are taken; meanwhile /healthz is asked again and
again, and the event loop says how late its timers are.

Run: python -m benchmarks.decoding_lag --help
"""

import asyncio
import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import psutil
import typer
from PIL import Image

from benchmarks.loop_lag import lag_p99_ms, parse_lag
from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import Asked, ask, body, percentile, start_platform

IMAGE_SIZE = (5164, 3873)
"""20.0 megapixels: what a DR detector or a telephone's camera gives."""
SLOTS = 64
AT_ONCE = 8
HEALTH_EVERY_S = 0.02
LAG_GOAL_MS, HEALTH_GOAL_MS = 50.0, 100.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _bodies(count: int) -> Iterator[bytes]:
    """Yield requests whose images all differ."""
    width, height = IMAGE_SIZE
    grain = np.random.default_rng(1).integers(0, 24, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
    for index in range(count):
        file = io.BytesIO()
        Image.fromarray(np.roll(grain, index, axis=1) + ramp).save(file, "JPEG", quality=80)
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        yield body("n=2 t=0 d=0", url)


async def _measure(port: int, bodies: list[bytes]) -> tuple[list[Asked], list[float], float | None]:
    done: list[Asked] = []
    health_ms: list[float] = []
    waiting = iter(bodies)

    async def client() -> None:
        done.extend([await ask(port, request, "t") for request in waiting])

    async def health(http: httpx.AsyncClient) -> None:
        while True:
            began = time.monotonic()
            (await http.get("/healthz")).raise_for_status()
            health_ms.append((time.monotonic() - began) * 1e3)
            await asyncio.sleep(HEALTH_EVERY_S)

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        before = parse_lag((await http.get("/metrics")).text)
        asking = asyncio.create_task(health(http))
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        after = parse_lag((await http.get("/metrics")).text)
    return done, health_ms, lag_p99_ms(before, after)


@app.command()
def bench(
    *,
    images: Annotated[int, typer.Option(min=1, help="Images to decode.")] = 50,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure the event loop while images are decoded; prints a section of Markdown."""
    settings = BenchSettings()
    busy_before = psutil.getloadavg()[0]
    bodies = list(_bodies(images))
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            port = start_platform(settings, children, slots=SLOTS, max_waiting=SLOTS)
            began = time.monotonic()
            done, health_ms, lag_ms = asyncio.run(_measure(port, bodies))
            took_s = time.monotonic() - began
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    health = percentile(health_ms, 0.99)
    lag = -1.0 if lag_ms is None else lag_ms
    failed = sum(each.status != 200 for each in done)
    megapixels = IMAGE_SIZE[0] * IMAGE_SIZE[1] / 1e6
    rows = [
        goal_row(
            "event loop lag p99",
            f"{lag:.1f} ms",
            f"<= {LAG_GOAL_MS:.0f} ms",
            0 <= lag <= LAG_GOAL_MS,
        ),
        goal_row(
            f"/healthz p99 at the client, of {len(health_ms)}",
            f"{health:.1f} ms",
            f"<= {HEALTH_GOAL_MS:.0f} ms",
            health <= HEALTH_GOAL_MS,
        ),
        goal_row("images not answered", str(failed), "0", failed == 0),
        [
            "megapixels per second, all decoder children",
            f"{images * megapixels / took_s:.0f}",
            "",
            "",
        ],
    ]
    what_ran = (
        f"{images} JPEGs of {megapixels:.0f} megapixels ({len(bodies[0]) / 1e6:.1f} MB bodies),",
        f"{AT_ONCE} at once, two decoder children, /healthz every {HEALTH_EVERY_S * 1e3:.0f} ms.",
    )
    section = MeasuredSection(
        "decoding-lag",
        "While large images are decoded (G10)",
        what_ran,
        rows,
        busy_before,
    )
    section.publish(out)


if __name__ == "__main__":
    app()
