"""A worker's parent process: small, without an engine, so that it outlives every engine.

    GALEN_WORKER_ENGINE=fake GALEN_WORKER_MODEL_ID=demo python -m services.worker.main

It starts the engine process, watches its progress page, kills it when it hangs, tells Redis at once
when it died (so that its requests move on before the lease ends), and starts the next one with a
growing pause. SIGTERM drains; a second one ends everything at once.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import structlog
from setproctitle import setproctitle

from services.protocol.connection import REDIS_AWAY, Backoff, open_wire
from services.protocol.messages import LossReason
from services.protocol.worker_directory import ALL_SUSPECT, WorkerDirectory
from services.settings_guard import settings_or_exit
from services.telemetry import configure_logging
from services.worker.engine_process import EXIT_CANNOT_START, EXIT_LOOP_BROKEN
from services.worker.preflight import PreflightError, preflight
from services.worker.progress_page import ProgressPage, ProgressSnapshot, StepLimits
from services.worker.settings import WorkerSettings, child_environment

_log = structlog.get_logger()

_POLL_S = 0.1
_OWN_PAUSE_S = 1.0
"""A gap between two polls beyond this means that we ourselves were stopped: judge nobody by it."""
_KILL_GRACE_S = 5.0
_REPORT_TRIES_S = 5.0


class Supervisor:
    """Keeps one engine process alive."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._page = ProgressPage.create()
        self._stop_signals = 0
        self._failed_starts = 0
        self._backoff = Backoff(first_s=0.2, most_s=10.0)
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
            code, hung = self._watch(child)
            snapshot = self._page.read()
            is_stopping = self._stop_signals > 0 or snapshot.state == "draining"  # or by an order
            if is_stopping and code == 0:
                return 0
            self._report(snapshot, code, hung=hung)
            if is_stopping:
                return 1 if snapshot.running else 0
            if code == EXIT_CANNOT_START:
                return EXIT_CANNOT_START
            if not self._may_start_again(snapshot, code):
                return 1
            self._is_cordoned = snapshot.state == "cordoned"
            self._pause()

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

    def _watch(self, child: "subprocess.Popen[bytes]") -> tuple[int, bool]:
        """Return (exit code, was it hung) when the child is gone."""
        started = judged_from = last_poll = time.monotonic()
        forwarded = 0
        while True:
            try:
                return child.wait(_POLL_S), False
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if now - last_poll > _OWN_PAUSE_S:
                judged_from = now
            last_poll = now
            if self._stop_signals > forwarded:
                forwarded = self._stop_signals
                self._forward_stop(child, now)
            if self._drain_until and now > self._drain_until:
                child.kill()
            cause = self._hang(self._page.read(), now, judged_from, started)
            if cause is not None:
                _log.error("engine.hung", cause=cause)
                child.kill()
                return child.wait(), True

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

    def _report(self, snapshot: ProgressSnapshot, code: int, *, hung: bool) -> None:
        """Tell Redis that this incarnation is gone, so that nobody waits for its lease."""
        _log.error("engine.died", exit_code=code, hung=hung, running=snapshot.running)
        if not snapshot.worker_id:
            return
        reason, suspects = _verdict(snapshot, code, hung=hung)
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

    def _may_start_again(self, snapshot: ProgressSnapshot, code: int) -> bool:
        if snapshot.beat > 0.0:
            self._failed_starts = 0
            self._backoff.reset()
            return True
        self._failed_starts += 1
        most = self._settings.most_failed_starts
        if self._failed_starts < most:
            return True
        _log.error("worker.gave_up", failed_starts=self._failed_starts, exit_code=code)
        return False

    def _pause(self) -> None:
        """Wait before the next start, unless told to stop meanwhile."""
        until = time.monotonic() + self._backoff.next_s()
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
    if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
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
        _log.error("engine.start.refused", cause=str(error))
        sys.exit(EXIT_CANNOT_START)
    supervisor = Supervisor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.on_signal)
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
