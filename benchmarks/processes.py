"""Child processes of a benchmark, and what they cost: started, watched in /proc, always ended.

Linux only. What does *not* live here: which programs are started (`peers.py`, `ours.py`).
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from benchmarks.settings import child_environment

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1  # prctl(2)
GRACE_S = 5.0
POLL_S = 0.1


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Role:
    """Part of a party whose CPU and memory are counted together.

    Args:
        pid: root process of the part.
        scope: the root alone, what it started, or both.
    """

    name: str
    pid: int
    scope: Literal["root", "children", "tree"] = "tree"

    def pids(self) -> list[int]:
        """Return the processes of this part that live now."""
        tree = process_tree(self.pid)
        match self.scope:
            case "root":
                return tree[:1]
            case "children":
                return tree[1:]
            case "tree":
                return tree

    def is_alive(self) -> bool:
        """Return whether the root process runs (a zombie does not)."""
        fields = _stat_fields(self.pid)
        return bool(fields) and fields[0] != "Z"


class ChildProcesses:
    """Context manager: everything started in it has ended when it is left, also by Ctrl-C."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in reversed(self._children):
            stop_tree(child)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `argv`; its output goes to NAME.log in the log folder."""
        with self.log_of(name).open("wb") as log:
            child = subprocess.Popen(
                [str(part) for part in argv],
                env=child_environment(env or {}),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads of ours yet
            )
        self._children.append(child)
        return child

    def log_of(self, name: str) -> Path:
        """Return the log file of the child called `name`."""
        return self._log_folder / f"{name}.log"

    def wait_until_ready(
        self, name: str, child: subprocess.Popen[bytes], url: str, *, limit_s: float = 120
    ) -> None:
        """Wait until `url` answers 200; raises BenchError if the child does not get there."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise BenchError(f"{name} ended with {child.returncode}; see {self.log_of(name)}")
            with suppress(httpx.HTTPError):
                if httpx.get(url, timeout=2).status_code == 200:
                    return
            time.sleep(POLL_S)
        raise BenchError(f"{name} did not answer {url} in {limit_s:.0f} s; see {self.log_of(name)}")


def require_free_port(port: int) -> None:
    """Raise BenchError if something listens on `port`."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise BenchError(
                f"port {port} is in use: end that process or set GALEN_BENCH_PORT_BASE"
            )


def stop_tree(child: subprocess.Popen[bytes]) -> None:
    """End `child` and all that it started: SIGTERM, after `GRACE_S` SIGKILL."""
    pids = process_tree(child.pid)
    with suppress(ProcessLookupError):
        child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    for pid in {*pids, *process_tree(child.pid)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def process_tree(pid: int) -> list[int]:
    """Return `pid` and its living descendants, `pid` first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [pid] if Path(f"/proc/{pid}").exists() else []
    for member in tree:  # grows while it is walked
        tree.extend(children.get(member, []))
    return tree


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of `pids` and of their children that ended, in seconds."""
    fields = (_stat_fields(pid) for pid in pids)
    return sum(sum(map(int, each[11:15])) for each in fields if each) / TICKS_PER_S


def peak_rss_mb(pids: Iterable[int]) -> float:
    """Return the sum of the processes' largest resident sets since `reset_peak_rss`, in MB."""
    total_kib = 0
    for pid in pids:
        with suppress(OSError):
            _, _, after = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")
            total_kib += int(after.split(maxsplit=1)[0]) if after else 0  # a zombie has none
    return total_kib * 1024 / 1e6


def reset_peak_rss(pids: Iterable[int]) -> None:
    """Let `peak_rss_mb` count from now on."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM


def busy_cpu_seconds() -> float:
    """Return the CPU time that all processes of the machine have used, in seconds."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def wait_until_idle(pids: Sequence[int], *, limit_s: float = 20) -> float:
    """Wait until `pids` use less than 8 % of a core; return how long that took, in seconds.

    A slow peer still works on aborted requests when the load has ended.
    """
    began = time.monotonic()
    used_s = cpu_seconds(pids)
    while time.monotonic() - began < limit_s:
        time.sleep(0.5)
        before_s, used_s = used_s, cpu_seconds(pids)
        if used_s - before_s < 0.04:
            break
    return time.monotonic() - began


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, state first; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
