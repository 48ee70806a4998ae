"""Builds the C programs of `native/` and runs the load generator.

C, so that on two cores the harness is not what is measured.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.processes import BenchError

SOURCES = Path(__file__).with_name("native")
PROGRAMS = ("loadgen", "mock_engine")


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds; -1 where there is no sample."""

    p50: float
    p95: float
    p99: float
    max: float


class LoadErrors(msgspec.Struct, frozen=True):
    """Failed requests by kind; `loadgen.c` says what each means."""

    conn: int = 0
    http: int = 0
    trunc: int = 0
    tok: int = 0
    done: int = 0
    timeout: int = 0

    def total(self) -> int:
        """Return all failed requests."""
        return sum(msgspec.structs.astuple(self))


class LoadResult(msgspec.Struct, frozen=True):
    """What `loadgen` prints; `*_all` and `started` include the warm-up."""

    secs: float
    reqs: int
    rps: float
    tok_s: float
    ev_s: float
    ttft_ms: Quantiles
    total_ms: Quantiles
    gap_ms: Quantiles
    err: LoadErrors
    multi: int
    maxconc: int
    lg_cpu_s: float
    tok_all: int
    req_all: int
    started: int
    errsample: str = ""


def build_programs(folder: Path) -> None:
    """Compile what is older than its source into `folder`."""
    for name in PROGRAMS:
        source, program = SOURCES / f"{name}.c", folder / name
        if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
            continue
        try:
            subprocess.run(["cc", "-O2", "-o", program, source], check=True)
        except FileNotFoundError as error:
            raise BenchError("no C compiler: install gcc (Debian: apt install gcc)") from error


def run_loadgen(
    folder: Path, port: int, args: Sequence[str | Path], *, limit_s: float = 180
) -> LoadResult:
    """Run the load generator against `port` and return what it measured."""
    argv = [folder / "loadgen", "--port", str(port), *args]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=limit_s)
    return msgspec.json.decode(done.stdout, type=LoadResult)
