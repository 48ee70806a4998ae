"""`galen up` as a user starts it: a process, what it prints, and the processes it has started."""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from services.worker.settings import child_environment
from tests.support.ready_python import ready_python

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60.0
_DATA = "data"


def galen(
    *words: str, variables: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with these environment variables.

    Its process begins with all imports done; `galen_anew` pays for them, as a user does.
    """
    environment = child_environment(**(variables or {}))
    return ready_python().run("services.cli", words, environment, timeout_s)


def galen_anew(
    *words: str, variables: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """`galen` in a new Python: for what is imported, what it costs, and Python's own variables."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        cwd=ROOT,
        env=child_environment(**(variables or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class LaunchedUp:
    """`galen up` with a temporary folder of its own; killed at the end, if it still runs."""

    def __init__(self, temporary: Path, *words: str, **variables: str) -> None:
        self.temporary = temporary
        self.lines: list[str] = []
        self._new_lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # the page takes two seconds of a core to start, and few tests are about it
        page = () if {"--ui", "--once"} & {*words} else ("--no-ui",)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", *words, *page],
            cwd=ROOT,
            env=child_environment(
                TMPDIR=str(temporary),
                XDG_CACHE_HOME=str(temporary),
                XDG_DATA_HOME=str(temporary / _DATA),
                **variables,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new_lines.put(line.rstrip("\n"))
        self._new_lines.put(None)

    def line_with(self, text: str, limit_s: float = START_LIMIT_S) -> str:
        """Wait for a line with `text`, and return it."""
        deadline = time.monotonic() + limit_s
        while True:
            line = self._new_lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"ended without {text!r}:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if text in line:
                return line

    def url(self, limit_s: float = START_LIMIT_S) -> str:
        """Wait until it serves, and return the address of the API."""
        return self.line_with("Serving ", limit_s).split(" at ")[1].split(" ")[0]

    def end(self, number: signal.Signals | None = None, limit_s: float = START_LIMIT_S) -> int:
        """Send a signal, if one is given, wait for the end and return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(limit_s)
        self._reader.join(10)
        while (line := self._new_lines.get(timeout=10)) is not None:
            self.lines.append(line)
        return code

    def family(self) -> list[psutil.Process]:
        """Return every process below the launcher."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, title: str) -> psutil.Process:
        """Return the process with this in its title, the topmost one."""
        return next(p for p in self.family() if title in " ".join(p.cmdline()))

    def children(self, title: str) -> list[psutil.Process]:
        """Return the processes that the launcher itself has started with this, oldest first."""
        below = sorted(psutil.Process(self.process.pid).children(), key=psutil.Process.create_time)
        return [p for p in below if title in " ".join(p.cmdline())]

    def left_over(self) -> list[str]:
        """Return what is in the temporary folder, the user's data aside."""
        return sorted(path.name for path in self.temporary.iterdir() if path.name != _DATA)


def alive_after(processes: Sequence[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Return the processes that still live after at most `limit_s`; a zombie does not live."""
    _, alive = psutil.wait_procs(processes, timeout=limit_s)
    return [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
