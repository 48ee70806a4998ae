"""One process of a stack, and what is needed to start and end it."""

import itertools
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Program:
    """A process of ours: how to start it, and the present one."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it (again); its output is appended to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command), stdout=log, stderr=log, cwd=ROOT, env=dict(self.environment)
            )

    @property
    def pid(self) -> int:
        """Of the present process."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.poll()

    def last_words(self) -> str:
        """How it stands, and the end of its log."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()[-8:]
        return "\n  ".join([f"{self.name}, exit code {self.exit_code}:", *lines])

    def end(self) -> None:
        """SIGTERM, and wait for the end."""
        self.send(signal.SIGTERM)
        assert self.process is not None
        self.process.wait(10)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None, f"{self.name} was not started"
        self.process.send_signal(number)


def free_port() -> int:
    """Return a port that is free, and that no other call of this run has been given.

    They lie below those that the kernel gives to outgoing connections.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _ports() -> Iterator[int]:
    """Ports in any order, again and again; processes of one test run have none in common."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # noqa: TID251 - pytest's own
    first = 15_000 + int(worker.removeprefix("gw")) % 8 * 2_000
    ports = list(range(first, first + 2_000))
    random.shuffle(ports)
    return itertools.cycle(ports)


_PORTS = _ports()


def kill(process: psutil.Process) -> None:
    """SIGKILL to a process that may be gone already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
