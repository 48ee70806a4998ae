"""How many workers one Redis carries: arithmetic on what `redis_load` measured, nothing is run.

It reads the figures from the page that has them, so that a new measurement changes one place; a
test compares the page with it.

Run: python -m benchmarks.redis_budget --out docs/scaling.md
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.page_sections import replace_section, table

SECTION = "redis-budget"
BATCH = 32
STEPS_PER_S = 34.0
REQUESTS_PER_S = 9.7
"""Of a worker: the 24 GB card of `queue_simulation.CARDS`, full."""
GATEWAYS = (1, 3, 4, 10, 50)
CORE_SHARE = 0.6
"""Of Redis' one core: the rest is for bursts, files that are written anew, and neighbours."""
CELL_WORKERS, CELL_GATEWAYS = 30, 3
"""What a cell is planned with, by the dearer figure."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """CPU of Redis in microseconds.

    Args:
        step_alone: an engine step written and read, measured by itself.
        step_in_platform: all that Redis did in a whole platform, for each engine step.
        request: queued, claimed, ended.
    """

    step_alone: float
    step_in_platform: float
    request: float


def figures_of(page: str) -> Figures:
    """Return what the section of `redis_load` in a page says."""

    def cell(what: str) -> float:
        return float(re.findall(rf"^\| {what}[^|]*\| ([\d.]+) \|", page, re.MULTILINE)[0])

    # a step of 32 lies between these
    alone = (cell("an engine step of 16 ") + cell("an engine step of 64 ")) / 2
    whole = float(re.findall(r"worked (\d+) us a step", page)[0])
    return Figures(alone, whole, cell("a request: "))


def writes_a_step(gateways: int) -> float:
    """Return to how many gateways an engine step is written on average: balls in bins."""
    return gateways * (1 - (1 - 1 / gateways) ** BATCH)


def core_share(gateways: int, step_us: float, request_us: float) -> float:
    """Return what a worker takes of Redis' core."""
    steps_us = STEPS_PER_S * writes_a_step(gateways) * step_us
    return (steps_us + REQUESTS_PER_S * request_us) / 1e6


def text_of(figures: Figures) -> str:
    """Return the section."""
    both = (figures.step_alone, figures.step_in_platform)
    rows: list[list[str]] = []
    for gateways in GATEWAYS:
        shares = [core_share(gateways, step_us, figures.request) for step_us in both]
        cells = [f"{share * 1e3:.1f} ms/s" for share in shares]
        most = [f"{int(CORE_SHARE / share):,}" for share in shares]
        rows.append([str(gateways), f"{writes_a_step(gateways):.1f}", cells[0], most[0],
                     cells[1], most[1]])  # fmt: skip
    cell = [CELL_WORKERS * core_share(CELL_GATEWAYS, each, figures.request) for each in both]
    head = ("gateways", "writes a step", "cheap: Redis a worker", "workers",
            "dear: Redis a worker", "workers")  # fmt: skip
    return "\n".join(
        [
            f"Workers up to {CORE_SHARE:.0%} of the core, at {STEPS_PER_S:.0f} steps and"
            f" {REQUESTS_PER_S} requests a second each,",
            f"*cheap* with {figures.step_alone / 1e3:.3f} ms a step, *dear* with"
            f" {figures.step_in_platform / 1e3:.3f} ms:",
            "",
            table(head, rows),
            "",
            f"A cell of {CELL_WORKERS} workers and {CELL_GATEWAYS} gateways takes"
            f" {cell[0]:.0%} of the core by the cheap figure, {cell[1]:.0%} by the dear one.",
        ]
    )


@app.command()
def bench(
    *,
    page: Annotated[Path, typer.Option(help="Where the figures stand.")] = Path("docs/scaling.md"),
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Print how many workers one Redis carries."""
    text = text_of(figures_of(page.read_text(encoding="utf-8")))
    typer.echo(text)
    if out is not None:
        replace_section(out, SECTION, text)


if __name__ == "__main__":
    app()
