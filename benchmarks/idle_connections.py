"""Measures goal G8: what idle connections, and heads that come byte by byte, cost healthy clients.

Run: python -m benchmarks.idle_connections --help
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from benchmarks.held_connections import Held
from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import Asked, Flow, body, percentile, send_open, start_platform

SLOTS = 16
PER_S = 20.0
STEERING = "n=8 t=20 d=10"
MOST_CHANGE = 0.2
HEAD_LIMIT_S, LATEST_S = 10.0, 12.0
"""The gateway's default, and with it a client's reading on a busy machine."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@asynccontextmanager
async def _holding(port: int, num_idle: int, num_slow: int) -> AsyncIterator[Process]:
    """Hold connections from another process, so that its work is not counted as the gateway's."""
    command = ["-m", "benchmarks.held_connections", str(port), str(num_idle), str(num_slow)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY
    )
    assert child.stdout is not None
    try:
        if not await child.stdout.readline():
            raise BenchError(f"{num_idle + num_slow} connections did not come about")
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _report(child: Process) -> Held:
    """Let the child end, and say what it saw."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    return msgspec.json.decode(await child.stdout.readline(), type=Held)


def _p99_ms(asked: list[Asked]) -> float:
    return percentile([a.total_s for a in asked if a.status == 200], 0.99) * 1e3


async def _measure(
    port: int, num_idle: int, num_slow: int, seconds: float, seed: int
) -> list[list[str]]:
    flow = Flow("t", PER_S, lambda: body(STEERING))
    await send_open(port, [flow], 3.0, seed)  # warms up
    alone = await send_open(port, [flow], seconds, seed)
    async with _holding(port, num_idle, num_slow) as child:
        beside = await send_open(port, [flow], seconds, seed)
        held = await _report(child)
    cut_s, others, still_open = held.cut_s, held.others, held.open_idle
    before, after = _p99_ms(alone), _p99_ms(beside)
    failed = sum(a.status != 200 for a in (*alone, *beside))
    change = after / before - 1
    first, last = min(cut_s, default=0.0), percentile(cut_s, 0.99)
    rows = [
        (f"healthy requests p99 (alone {before:.0f} ms)", f"{after:.0f} ms, {change:+.0%}",
         "change < 20 %", change < MOST_CHANGE),
        (f"healthy requests that failed, of {len(alone) + len(beside)}", str(failed), "0",
         failed == 0),
        (f"slow heads answered with 408: {len(cut_s)}, after", f"{first:.1f} to {last:.1f} s (p99)",
         f"{HEAD_LIMIT_S:g} s", bool(cut_s) and first >= HEAD_LIMIT_S - 0.1 and last <= LATEST_S),
        ("slow heads that ended otherwise", str(others), "0", others == 0),
        ("idle connections still open", f"{still_open} of {num_idle}", "all",
         still_open == num_idle),
    ]  # fmt: skip
    return [goal_row(*row) for row in rows]


@app.command()
def bench(
    *,
    idle: Annotated[int, typer.Option(min=1, help="Idle connections.")] = 5000,
    slow: Annotated[int, typer.Option(min=1, help="Connections with slow heads.")] = 1000,
    seconds: Annotated[float, typer.Option(min=12, help="Length of each part.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure healthy clients beside connections that are held; prints a section of Markdown.

    For example:

    python -m benchmarks.idle_connections --out docs/benchmarks.md
    """
    settings = BenchSettings()
    busy_before = psutil.getloadavg()[0]
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            port = start_platform(settings, children, slots=SLOTS, max_waiting=256)
            rows = asyncio.run(_measure(port, idle, slow, seconds, seed))
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    what_ran = (
        f"{PER_S:g} healthy requests a second (`{STEERING}`, open arrivals) alone, then beside",
        f"{idle} idle kept connections and {slow} that send a head a byte a second and come again.",
    )
    section = MeasuredSection(
        "idle-connections",
        "Idle connections and slow heads (G8)",
        what_ran,
        rows,
        busy_before,
    )
    section.publish(out)


if __name__ == "__main__":
    app()
