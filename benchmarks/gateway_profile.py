"""Where the gateway spends its time: py-spy samples during one scenario, summed by function."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.party import Party
from benchmarks.processes import BenchError
from benchmarks.rounds import Bench
from benchmarks.scenarios import Scenario, Timing

SAMPLES_PER_S = 200
NUM_FUNCTIONS = 20
OUR_CODE = "(services/"
WAITING_THREAD = "_worker (concurrent/futures/thread.py)"  # of a pool, without work


class FunctionShare(msgspec.Struct, frozen=True):
    """A function's share of the samples, percent: itself, and with what it calls."""

    function: str
    self_percent: float
    total_percent: float


class Profile(msgspec.Struct, frozen=True):
    """The functions with most samples of their own, and those of Galen's with most in all."""

    scenario: str
    num_samples: int
    by_self: list[FunctionShare]
    by_total: list[FunctionShare]


def profile_gateway(
    bench: Bench, scenario: Scenario, party: Party, folder: Path, secs: float
) -> Profile:
    """Run `scenario` against `party` with py-spy on its first process (unmeasured: it disturbs)."""
    samples = folder / f"profile_{scenario.name}.txt"
    command: list[str | Path] = [Path(sys.executable).with_name("py-spy"), "record"]
    command += ["--pid", str(party.roles[0].pid), "--format", "raw", "--output", samples]
    command += ["--rate", str(SAMPLES_PER_S), "--duration", f"{secs + 1:.0f}"]
    with (folder / "py-spy.log").open("wb") as log:
        try:
            spy = subprocess.Popen(command, stdout=log, stderr=log)
        except FileNotFoundError as error:
            raise BenchError("py-spy is not installed: pip install py-spy") from error
        try:
            bench.measure(0, scenario, party, Timing(0.7, secs))
            spy.wait(60)
        finally:
            spy.kill()
            spy.wait()
    if not samples.exists():
        raise BenchError(f"py-spy wrote nothing; see {folder / 'py-spy.log'}")
    return summarise(scenario.name, samples.read_text())


def summarise(scenario: str, folded_stacks: str) -> Profile:
    """Sum py-spy's raw format (frame;frame;frame count per line, the innermost last)."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in folded_stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        if frames[-1] == WAITING_THREAD:
            continue
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    num_samples = sum(own.values())

    def shares(ranking: list[tuple[str, int]]) -> list[FunctionShare]:
        return [
            FunctionShare(name, 100 * own[name] / num_samples, 100 * whole[name] / num_samples)
            for name, _ in ranking[:NUM_FUNCTIONS]
        ]

    ours = [each for each in whole.most_common() if OUR_CODE in each[0]]
    return Profile(scenario, num_samples, shares(own.most_common()), shares(ours))


def _function(frame: str) -> str:
    """ "name (folder/file.py:line)" without the line and the folders above the package."""
    name, _, place = frame.partition(" (")
    path = place.rstrip(")").partition(":")[0]
    return f"{name} ({path.rpartition('site-packages/')[2]})" if path else name
