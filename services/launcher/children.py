"""The child processes of `galen up`: started, their output prefixed, watched, and ended together.

Each child leads a session of its own, so that Ctrl-C in the terminal reaches the launcher alone,
and dies when the launcher does (`die_with_parent.py`). What does *not* live here: which children
there are and in what order (`up.py`).
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.launcher.terminal import CommandError, Terminal

_TERM_GRACE_S = 3.0
"""From SIGTERM to SIGKILL; with Redis after it, all is over within the 5 s that we promise."""
_REDIS_GRACE_S = 1.0
_LAST_LINES_S = 0.5
_LAST_LINES = 8
_MOST_LINE_BYTES = 1 << 20
_WRAPPER = Path(__file__).with_name("die_with_parent.py")


@dataclass(slots=True, eq=False)
class Child:
    """One process and the last lines that it printed; `is_quiet` shows them only at its death."""

    name: str
    process: Process
    is_quiet: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    pump: "asyncio.Task[None] | None" = None

    def signal(self, number: int) -> None:
        """Send a signal to this process, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill_group(self) -> None:
        """Kill this process and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Family:
    """All children of a launcher."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._death: asyncio.Future[Child] = asyncio.get_running_loop().create_future()

    async def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        is_quiet: bool = False,
    ) -> None:
        """Start a child that has to live until `end`; see `first_death`."""
        child = await self._spawn(name, command, environment, is_quiet=is_quiet)
        self._watchers.append(asyncio.create_task(self._watch(child)))

    async def run_quietly(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Run a child to its end; raises CommandError where that is not exit code 0."""
        child = await self._spawn(name, command, environment, is_quiet=True)
        code = await child.process.wait()
        if code != 0:
            raise await _death_of(child)
        self._children.remove(child)

    async def first_death(self) -> CommandError:
        """Wait until a child that had to live is dead; returns what to tell the user."""
        return await _death_of(await asyncio.shield(self._death))

    async def end(self, force: asyncio.Event) -> None:
        """End every child: SIGTERM, then SIGKILL; `force` skips the wait. The first goes last.

        The first child is the one that the others need while they end (Redis).
        """
        first, others = self._children[:1], self._children[1:]
        for children, grace_s in ((others, _TERM_GRACE_S), (first, _REDIS_GRACE_S)):
            for child in children:
                child.signal(signal.SIGTERM)
            await _wait_for(children, grace_s, force)
            for child in children:
                child.kill_group()  # also what a child left behind
            await asyncio.gather(*(child.process.wait() for child in children))
        for task in (*self._watchers, *(child.pump for child in self._children if child.pump)):
            task.cancel()

    async def _spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        *,
        is_quiet: bool,
    ) -> Child:
        # The death signal is tied to the thread that starts a child: it is the event loop's, which
        # is the main thread, and lives as long as the process.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid()), *command,
            stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment,
            start_new_session=True, limit=_MOST_LINE_BYTES,
        )  # fmt: skip
        child = Child(name, process, is_quiet)
        child.pump = asyncio.create_task(self._pump(child))
        self._children.append(child)
        return child

    async def _pump(self, child: Child) -> None:
        """Show each line of a child's output."""
        stream = child.process.stdout
        assert stream is not None  # noqa: S101 - it was started with a pipe
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line beyond _MOST_LINE_BYTES, which was dropped
                raw = b"(a line too long to show)\n"
            if not raw:
                return
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                child.last_lines.append(line)
                if not child.is_quiet:
                    self._terminal.log(child.name, line)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if not self._death.done():
            self._death.set_result(child)


async def _death_of(child: Child) -> CommandError:
    """Return how a child ended, with the last lines that it printed."""
    if child.pump is not None:
        await asyncio.wait({child.pump}, timeout=_LAST_LINES_S)
    code = await child.process.wait()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return CommandError(
        f"{child.name} {how}; everything was ended. It said last:", child.last_lines
    )


async def _wait_for(children: Iterable[Child], limit_s: float, force: asyncio.Event) -> None:
    """Wait until all children are gone, `limit_s` has passed or `force` is set."""
    gone = asyncio.gather(*(child.process.wait() for child in children))
    forced = asyncio.create_task(force.wait())
    try:
        await asyncio.wait({gone, forced}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        forced.cancel()
        await asyncio.gather(gone, forced, return_exceptions=True)
