"""Measures goal G5: how soon the engine stops for clients that have gone, under load.

Clients stream from a worker with the fake engine; again and again some of them leave at once, by
FIN or by RST, while the others go on. What is measured is the engine's own gauge: the time until
it runs as many requests less as have left.

Run: python -m benchmarks.disconnects --help
"""

import asyncio
import random
import re
import socket
import struct
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.settings import BenchSettings
from benchmarks.tenant_load import body, percentile, start_platform

GOAL_S = 1.0
ORPHANS_AFTER_S = 5.0
STEERING = "n=100000 t=0 d=20"
_GIVE_UP_S = 20.0
_POLL_S = 0.005
_RESET = struct.pack("ii", 1, 0)
_RUNNING = re.compile(r"^galen_worker_running_requests(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_STEPS = re.compile(r"^galen_worker_engine_steps_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Client:
    """One stream, read until it is left."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask, and read on until `leave`."""
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = body(STEERING)
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(request), request)
        )
        self._reading = asyncio.create_task(_read_on(reader))

    def leave(self, *, is_reset: bool) -> None:
        """Close the connection."""
        assert self._writer is not None
        assert self._reading is not None
        self._reading.cancel()
        connection = self._writer.get_extra_info("socket")
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort() if is_reset else self._writer.close()


async def _read_on(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def _metric(port: int, metric: re.Pattern[str]) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    page = (await reader.read()).decode()
    writer.close()
    return sum(float(value) for value in metric.findall(page))


async def _until_running(metrics_port: int, number: int) -> bool:
    """Wait until the engine runs so many requests; whether it came to that."""
    deadline = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < deadline:
        if await _metric(metrics_port, _RUNNING) == number:
            return True
        await asyncio.sleep(_POLL_S)
    return False


async def _measure(
    port: int, metrics_port: int, num_clients: int, num_leaving: int, rounds: int
) -> list[list[str]]:
    draw = random.Random(1)
    clients = [Client(port) for _ in range(num_clients)]
    await asyncio.gather(*(client.start() for client in clients))
    if not await _until_running(metrics_port, num_clients):
        raise BenchError("the engine did not take all clients; see the logs")
    took_s: list[float] = []
    lost = 0
    for _ in range(rounds):
        await asyncio.sleep(draw.uniform(0.05, 0.3))
        leaving = draw.sample(range(num_clients), num_leaving)
        began = time.monotonic()
        for index in leaving:
            clients[index].leave(is_reset=draw.random() < 0.5)
        lost += not await _until_running(metrics_port, num_clients - num_leaving)
        took_s.append(time.monotonic() - began)
        for index in leaving:
            clients[index] = Client(port)
            await clients[index].start()
        if not await _until_running(metrics_port, num_clients):
            raise BenchError("the engine did not take those that came again; see the logs")
    for client in clients:
        client.leave(is_reset=False)
    await asyncio.sleep(ORPHANS_AFTER_S)
    orphans = await _metric(metrics_port, _RUNNING)
    steps = await _metric(metrics_port, _STEPS)
    await asyncio.sleep(1.0)
    steps = await _metric(metrics_port, _STEPS) - steps
    p99 = percentile(took_s, 0.99)
    rows = [
        (f"from leaving to the engine's stop, all {num_leaving} of a round, p99 of {rounds} rounds"
         f" (p50 {percentile(took_s, 0.5) * 1e3:.0f} ms)", f"{p99 * 1e3:.0f} ms",
         f"<= {GOAL_S * 1e3:.0f} ms", p99 <= GOAL_S),
        ("rounds after which the engine went on", str(lost), "0", lost == 0),
        (f"requests in the engine {ORPHANS_AFTER_S:g} s after all have left", f"{orphans:.0f}",
         "0", orphans == 0),
        ("engine steps in the second after that", f"{steps:.0f}", "0", steps == 0),
    ]  # fmt: skip
    return [goal_row(*row) for row in rows]


@app.command()
def bench(
    *,
    clients: Annotated[int, typer.Option(min=2, help="Streams at once.")] = 64,
    leaving: Annotated[int, typer.Option(min=1, help="Clients that leave in a round.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Times that clients leave.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure what clients that leave leave behind; prints a section of Markdown.

    For example:

    python -m benchmarks.disconnects --out docs/benchmarks.md
    """
    settings = BenchSettings()
    metrics_port = settings.port_base + 161
    busy_before = psutil.getloadavg()[0]
    try:
        with ChildProcesses(settings.folder("logs")) as children:
            port = start_platform(
                settings, children, slots=clients, max_waiting=clients, metrics_port=metrics_port
            )
            rows = asyncio.run(_measure(port, metrics_port, clients, min(leaving, clients), rounds))
    except* BenchError as errors:
        typer.echo(f"error: {errors.exceptions[0]}", err=True)
        raise typer.Exit(2) from errors
    what_ran = (
        f"{clients} streams at one worker with the fake engine (`{STEERING}`); {leaving} of them",
        "leave at once, half by RST, and as many come. Polled: the worker's gauge of requests in",
        "its engine.",
    )
    section = MeasuredSection(
        "disconnects",
        "Clients that leave (G5)",
        what_ran,
        rows,
        busy_before,
    )
    section.publish(out)


if __name__ == "__main__":
    app()
