"""The child processes of `galen up`: started, their output prefixed, watched, and ended together.

Each child leads a session of its own, so that Ctrl-C in the terminal reaches the launcher alone,
and dies when the launcher does (`die_with_parent.py`). A child that others can stand in for is
started again when it dies. What does *not* live here: which children there are and in what order
(`up.py`).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.launcher.terminal import CommandError, Terminal

_TERM_GRACE_S = 3.0
"""From SIGTERM to SIGKILL; with Redis after it, all is over within the 5 s that we promise."""
_REDIS_GRACE_S = 1.0
_LAST_LINES_S = 0.5
_LAST_LINES = 8
_MOST_LINE_BYTES = 1 << 20
_MOST_DEATHS = 3
_DEATHS_WITHIN_S = 60.0
"""A child that dies so often within this will not do better the next time."""
_RESTART_PAUSES_S = (1.0, 4.0)
"""After the first death within that time, and after the next: a card's memory is freed by then."""
_ALL_ENDED = "; everything was ended"
_WRAPPER = Path(__file__).parents[1] / "die_with_parent.py"


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


@dataclass(slots=True, eq=False)
class KeptChild:
    """A child that is started again when it dies.

    Args:
        child: the present process.
        is_established: it has worked once: only then is it replaced.
        leaving: set when it was told to end, and is not replaced.
    """

    child: Child
    command: Sequence[str]
    environment: Mapping[str, str]
    on_end: Callable[[CommandError | None], None]
    is_established: bool = False
    leaving: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        """Do not replace it any more; whoever calls this ends it."""
        self.leaving.set()


class Family:
    """All children of a launcher.

    Args:
        restart_pauses_s: before a kept child is started again: after its first death within
            `_DEATHS_WITHIN_S`, after its second.
    """

    def __init__(
        self, terminal: Terminal, restart_pauses_s: tuple[float, float] = _RESTART_PAUSES_S
    ) -> None:
        self._is_ending = False
        self._terminal = terminal
        self._restart_pauses_s = restart_pauses_s
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._death: asyncio.Future[CommandError] = asyncio.get_running_loop().create_future()

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

    async def start_kept(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_end: Callable[[CommandError | None], None],
    ) -> KeptChild:
        """Start a child that is started again when it dies, unless it does so all the time.

        Args:
            on_end: told when it is not started again: why, or None where it was meant to end, as
                exit code 0 says, too: also of a child that nobody has seen working yet.
        """
        child = await self._spawn(name, command, environment, is_quiet=False)
        kept = KeptChild(child, command, environment, on_end)
        self._watchers.append(asyncio.create_task(self._watch_and_replace(kept)))
        return kept

    async def first_death(self) -> CommandError:
        """Wait until a child that had to live is dead; returns what to tell the user."""
        return await asyncio.shield(self._death)

    async def end(self, force: asyncio.Event) -> None:
        """End every child: SIGTERM, then SIGKILL; `force` skips the wait.

        What they print meanwhile is not shown. Quiet children go last: the others need them while
        they end (Redis).
        """
        self._is_ending = True
        for task in self._watchers:  # nothing is started any more
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        quiet = [child for child in self._children if child.is_quiet]
        others = [child for child in self._children if not child.is_quiet]
        for children, grace_s in ((others, _TERM_GRACE_S), (quiet, _REDIS_GRACE_S)):
            for child in children:
                child.signal(signal.SIGTERM)
            await _wait_for(children, grace_s, force)
            for child in children:
                child.kill_group()  # also what a child left behind
            await asyncio.gather(*(child.process.wait() for child in children))
        for child in self._children:
            if child.pump:
                child.pump.cancel()

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
                if not child.is_quiet and not self._is_ending:
                    self._terminal.log(child.name, line)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        self.give_up(await _death_of(child))

    async def _watch_and_replace(self, kept: KeptChild) -> None:
        """Start a child anew whenever it dies; too often, or too early, counts as its end."""
        deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        while True:
            child = kept.child
            how = await _end_of(child)
            death = None if kept.is_established else await _death_of(child)
            self._forget(child)
            if kept.leaving.is_set() or child.process.returncode == 0:
                return kept.on_end(None)
            if death is not None:
                return kept.on_end(death)
            now = time.monotonic()
            deaths.append(now)
            num_recent = sum(now - each < _DEATHS_WITHIN_S for each in deaths)
            if num_recent == _MOST_DEATHS:
                often = f"{_MOST_DEATHS} times within {_DEATHS_WITHIN_S:g} s"
                return kept.on_end(CommandError(f"{child.name} died {often}, now it {how}"))
            pause_s = self._restart_pauses_s[num_recent - 1]
            self._terminal.progress(f"{child.name} {how}; starting it again in {pause_s:g} s")
            if await _is_set_within(kept.leaving, pause_s):
                return kept.on_end(None)
            kept.child = await self._spawn(
                child.name, kept.command, kept.environment, is_quiet=False
            )

    def _forget(self, child: Child) -> None:
        child.kill_group()  # what it left behind
        self._children.remove(child)

    def give_up(self, death: CommandError) -> None:
        """End everything: see `first_death`."""
        if not self._death.done():
            self._death.set_result(CommandError(f"{death.message}{_ALL_ENDED}", death.details))


async def _is_set_within(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for an event for so long; returns whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    return event.is_set()


async def _end_of(child: Child) -> str:
    """Wait for a child's end and return it in words."""
    code = await child.process.wait()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


async def _death_of(child: Child) -> CommandError:
    """Return how a child ended, with the last lines that it printed, unless they were shown."""
    how = await _end_of(child)
    if child.pump is not None:
        await asyncio.wait({child.pump}, timeout=_LAST_LINES_S)
    message = f"{child.name} {how}"
    if not child.is_quiet or not child.last_lines:
        return CommandError(message)
    return CommandError(message, ["it said last:", *child.last_lines])


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
