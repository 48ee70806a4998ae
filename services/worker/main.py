"""A worker's parent process: small, without an engine, so that it outlives every engine.

    GALEN_WORKER_ENGINE=fake GALEN_WORKER_MODEL_ID=demo python -m services.worker.main

It starts the engine process, watches its progress page, kills it when it hangs, tells Redis at once
when it died (so that its requests move on before the lease ends), and starts the next one. Engines
that fail by themselves get a growing pause, and after some in a row the worker ends (`Restarts`).
SIGTERM drains; a second one ends everything at once.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from setproctitle import setproctitle

from services.protocol.connection import REDIS_AWAY, Backoff, open_wire
from services.protocol.messages import LossReason
from services.protocol.worker_directory import ALL_SUSPECT, WorkerDirectory
from services.settings_guard import settings_or_exit
from services.telemetry import configure_logging
from services.worker.exit_codes import EXIT_CANNOT_START, EXIT_LOOP_BROKEN, KILLED_FROM_OUTSIDE
from services.worker.preflight import PreflightError, preflight
from services.worker.progress_page import ProgressPage, ProgressSnapshot, StepLimits
from services.worker.refusal import tell_refusal
from services.worker.settings import WorkerSettings, child_environment

_log = structlog.get_logger()

_POLL_S = 0.1
_OWN_PAUSE_S = 1.0
"""A gap between two polls beyond this means that we ourselves were stopped: judge nobody by it."""
_KILL_GRACE_S = 5.0
_REPORT_TRIES_S = 5.0
_HEALTHY_S = 60.0
"""An engine that lived so long after its start was a good one: what came before is forgotten."""
_AFTERMATH_S = 1.0
"""A death so soon after the last step may still be the work of the request that has just left."""
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.2, 10.0
_MOST_SHORT_PAUSE_S = 2.0  # after deaths that are not the engine's own fault


@dataclass(frozen=True, slots=True)
class Death:
    """How an engine process ended.

    Args:
        snapshot: its progress page, as it left it.
        healthy_s: from its first beat to its last.
    """

    snapshot: ProgressSnapshot
    code: int
    hung: bool
    healthy_s: float

    def is_own_fault(self) -> bool:
        """Whether the engine failed by itself: in its start, or with no request near it.

        A start counts however it ended: most often the kernel's memory killer ends it.
        """
        page = self.snapshot
        if page.beat == 0.0:
            return True
        if self.code in KILLED_FROM_OUTSIDE and not self.hung:
            return False
        is_idle = not page.running and not page.admitting
        return is_idle and page.beat - page.last_step > _AFTERMATH_S


class Restarts:
    """Whether and when the next engine process is started.

    Failures count while no engine between them was healthy for `_HEALTHY_S`. Kills from outside and
    crashes that requests are suspected for neither count nor reset: an operator or a poisonous
    request takes no worker down, however often. They lengthen a pause of their own.

    Args:
        most_failures: so many in a row are the worker's end.
    """

    def __init__(self, most_failures: int) -> None:
        self._most_failures = most_failures
        self._backoff = Backoff(_FIRST_PAUSE_S, _MOST_PAUSE_S)
        self._short_backoff = Backoff(_FIRST_PAUSE_S, _MOST_SHORT_PAUSE_S)
        self.num_failures = 0

    def pause_s(self, death: Death) -> float | None:
        """Return how long to wait before the next start; None: there is none."""
        if death.healthy_s >= _HEALTHY_S:
            self.num_failures = 0
            self._backoff.reset()
            self._short_backoff.reset()
        if not death.is_own_fault():
            return self._short_backoff.next_s()
        self.num_failures += 1
        return None if self.num_failures >= self._most_failures else self._backoff.next_s()


class Supervisor:
    """Keeps one engine process alive."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._page = ProgressPage.create()
        self._stop_signals = 0
        self._restarts = Restarts(settings.most_failed_starts)
        self._is_cordoned = False
        self._drain_until = 0.0
        self._limits = StepLimits(settings.step_timeout_s, settings.prefill_timeout_s)

    def on_signal(self, _number: int, _frame: object) -> None:
        """Count a SIGTERM or SIGINT."""
        self._stop_signals += 1

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code."""
        while True:
            self._page.clear()
            child = self._spawn()
            death = self._watch(child)
            snapshot = death.snapshot
            is_stopping = self._stop_signals > 0 or snapshot.state == "draining"  # or by an order
            if is_stopping and death.code == 0:
                return 0
            self._report(death)
            if is_stopping:
                return 1 if snapshot.running else 0
            if death.code == EXIT_CANNOT_START:
                return EXIT_CANNOT_START
            pause_s = self._restarts.pause_s(death)
            if pause_s is None:
                failures = self._restarts.num_failures
                _log.error("worker.gave_up", failures=failures, exit_code=death.code)
                return 1
            self._is_cordoned = snapshot.state == "cordoned"
            self._pause(pause_s)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable, "-m", "services.worker.engine_process",
            "--progress-fd", str(self._page.fd), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        if self._is_cordoned:
            command.append("--cordoned")
        return subprocess.Popen(  # noqa: S603 - our own module
            command, pass_fds=[self._page.fd], env=child_environment()
        )

    def _watch(self, child: "subprocess.Popen[bytes]") -> Death:
        """Return how the child ended when it is gone."""
        started = judged_from = last_poll = time.monotonic()
        first_beat, forwarded = 0.0, 0
        while True:
            try:
                return self._death(child.wait(_POLL_S), first_beat)
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            page = self._page.read()
            first_beat = first_beat or page.beat
            if now - last_poll > _OWN_PAUSE_S:
                judged_from = now
            last_poll = now
            if self._stop_signals > forwarded:
                forwarded = self._stop_signals
                self._forward_stop(child, now)
            if self._drain_until and now > self._drain_until:
                child.kill()
            cause = self._hang(page, now, judged_from, started)
            if cause is not None:
                _log.error("engine.hung", cause=cause)
                child.kill()
                return self._death(child.wait(), first_beat, hung=True)

    def _death(self, code: int, first_beat: float, *, hung: bool = False) -> Death:
        page = self._page.read()
        return Death(page, code, hung, page.beat - first_beat if first_beat else 0.0)

    def _forward_stop(self, child: "subprocess.Popen[bytes]", now: float) -> None:
        if self._stop_signals > 1:
            child.kill()
            return
        child.send_signal(signal.SIGTERM)
        self._drain_until = now + self._settings.drain_timeout_s + _KILL_GRACE_S

    def _hang(
        self, page: ProgressSnapshot, now: float, judged_from: float, started: float
    ) -> str | None:
        """Return what hangs, or None."""
        if page.beat == 0.0:
            late = now - started > self._settings.start_timeout_s
            return "start_timeout" if late else None
        if now - max(page.beat, judged_from) > self._settings.beat_timeout_s:
            return "event_loop"
        own_pause_s = max(0.0, judged_from - page.last_step)
        return "engine_step" if page.is_hung(now - own_pause_s, self._limits) else None

    def _report(self, death: Death) -> None:
        """Tell Redis that this incarnation is gone, so that nobody waits for its lease."""
        snapshot = death.snapshot
        _log.error("engine.died", exit_code=death.code, hung=death.hung, running=snapshot.running)
        if not snapshot.worker_id:
            return
        reason, suspects = _verdict(snapshot, death.code, hung=death.hung)
        try:
            asyncio.run(self._report_death(snapshot.worker_id, reason, suspects))
        except REDIS_AWAY:
            _log.warning("engine.death.unreported")

    async def _report_death(
        self, worker_id: str, reason: LossReason, suspects: Sequence[str]
    ) -> None:
        wire = open_wire(self._settings.redis_url.get_secret_value())
        try:
            async with asyncio.timeout(_REPORT_TRIES_S):
                await WorkerDirectory(wire).report_death(worker_id, reason, suspects)
        finally:
            await wire.aclose()

    def _pause(self, pause_s: float) -> None:
        """Wait before the next start, unless told to stop meanwhile."""
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._stop_signals:
            signal.sigtimedwait([], 0.05)


def _verdict(
    snapshot: ProgressSnapshot, code: int, *, hung: bool
) -> tuple[LossReason, tuple[str, ...]]:
    """Return why the engine is gone and which requests may be why.

    SIGKILL comes from outside (an operator, the kernel's memory killer): nobody is suspect, all get
    a strike. A fault of our own loop costs nobody anything. A crash is put on the requests that
    were being admitted, or else on all. A hang is put on those being admitted, if any.
    """
    if hung:
        return "engine_hung", snapshot.admitting
    if code == EXIT_LOOP_BROKEN:
        return "handed_back", ()
    if code in KILLED_FROM_OUTSIDE:
        return "engine_died", ()
    return "engine_crashed", snapshot.admitting or (ALL_SUSPECT,)


def main() -> None:
    """Entry point of `galen worker`."""
    settings = settings_or_exit(WorkerSettings, "worker")
    configure_logging("worker", settings.log_format, settings.log_level)
    setproctitle(f"galen worker [{settings.model_id}]")
    try:
        preflight(settings)
    except PreflightError as error:
        tell_refusal(str(error))
        sys.exit(EXIT_CANNOT_START)
    supervisor = Supervisor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.on_signal)
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
