"""Interleaved measuring: in every round every scenario visits one party after the other.

The machine is noisy; what is compared stands next to each other in time, and the order turns by one
place per round, so that nobody always follows the same neighbour.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import msgspec

from benchmarks.image_body import ImageBody
from benchmarks.loop_lag import HealthProbe, ProbeResult, lag_p99_ms, scrape_lag
from benchmarks.native_build import LoadResult, run_loadgen
from benchmarks.party import DIRECT, Party
from benchmarks.processes import (
    BenchError,
    busy_cpu_seconds,
    cpu_seconds,
    peak_rss_mb,
    reset_peak_rss,
    wait_until_idle,
)
from benchmarks.scenarios import Scenario, Timing
from benchmarks.settings import BenchSettings

SALTS_PER_RUN = 100_000  # of 60 ** 4 values: 129 measurements without a repeated image


class Measurement(msgspec.Struct, frozen=True):
    """One party under one load.

    Args:
        cpu_s: user and system time by role, warm-up included.
        peak_rss_mb: largest resident set by role, in this measurement.
        probe: the health route, asked meanwhile (image scenarios).
        metric_lag_p99_ms: the gateway's own measure of its event loop.
        foreign_cores: cores that programs other than the benchmark's kept busy.
        drain_s: time until the party was idle again.
        wall_s: of the load, warm-up included.
    """

    scenario: str
    party: str
    round_index: int
    load: LoadResult
    cpu_s: dict[str, float]
    peak_rss_mb: dict[str, float]
    foreign_cores: float
    load1: float
    drain_s: float
    wall_s: float
    probe: ProbeResult | None = None
    metric_lag_p99_ms: float | None = None

    def cpu_us_per_token(self, role: str | None = None) -> float | None:
        """Return CPU microseconds per token, of one role or all; None without tokens."""
        return self._cpu_us(role, self.load.tok_all)

    def cpu_us_per_request(self, role: str | None = None) -> float | None:
        """Return CPU microseconds per finished request, of one role or all; None without any."""
        return self._cpu_us(role, self.load.req_all)

    def _cpu_us(self, role: str | None, count: int) -> float | None:
        used_s = sum(self.cpu_s.values()) if role is None else self.cpu_s.get(role)
        return used_s * 1e6 / count if count and used_s is not None else None


class Bench:
    """Everything that runs, and how to put one party under load."""

    def __init__(
        self, settings: BenchSettings, parties: Sequence[Party], body: ImageBody, secs: float
    ) -> None:
        self._settings = settings
        self._parties = parties
        self._body = body
        self._secs = secs
        self._next_salt = 0

    def plan(
        self, scenarios: Sequence[Scenario], num_rounds: int
    ) -> Iterator[tuple[int, Scenario, Party]]:
        """Yield what is to be measured, in order."""
        for round_index in range(num_rounds):
            for scenario in scenarios:
                turn = round_index % len(self._parties)
                for party in (*self._parties[turn:], *self._parties[:turn]):
                    if scenario.includes(party, round_index, num_rounds):
                        yield round_index, scenario, party

    def warm_up(self, party: Party) -> LoadResult:
        """Send `party` a few requests of both kinds; returns what became of the streamed ones."""
        self._run(party, ("-c", "4", "-n", "20", "--timeout", "30"))
        return self._run(party, ("-c", "4", "-n", "40", "--stream", "--timeout", "30"))

    def measure(
        self, round_index: int, scenario: Scenario, party: Party, timing: Timing | None = None
    ) -> Measurement:
        """Put `party` under load and return what it did, when it is idle again."""
        timing = timing or scenario.timing(party, self._secs)
        args = (*scenario.args, *self._image_args(scenario), *timing.args(), "--timeout", "40")
        pids = {role.name: role.pids() for role in party.roles}
        for role_pids in pids.values():
            reset_peak_rss(role_pids)
        probe = HealthProbe(party) if scenario.image and party.name != DIRECT else None
        lag_before = scrape_lag(party)
        began, busy_s, own_s = time.monotonic(), busy_cpu_seconds(), self._own_cpu_s()
        cpu_before = {role.name: cpu_seconds(role.pids()) for role in party.roles}
        with probe or nullcontext():
            load = self._run(party, args)
        cpu_after = {role.name: cpu_seconds(role.pids()) for role in party.roles}
        wall_s = time.monotonic() - began
        _require_alive(party, scenario)
        foreign_s = busy_cpu_seconds() - busy_s - (self._own_cpu_s() - own_s) - load.lg_cpu_s
        return Measurement(
            scenario=scenario.name,
            party=party.name,
            round_index=round_index,
            load=load,
            cpu_s={name: cpu_after[name] - cpu_before[name] for name in cpu_after},
            peak_rss_mb={role.name: peak_rss_mb(role.pids()) for role in party.roles},
            foreign_cores=max(0.0, foreign_s / wall_s),
            load1=os.getloadavg()[0],
            probe=probe.result() if probe else None,
            metric_lag_p99_ms=lag_p99_ms(lag_before, scrape_lag(party)),
            wall_s=wall_s,
            drain_s=wait_until_idle(party.pids()),
        )

    def _run(self, party: Party, args: Sequence[str]) -> LoadResult:
        return run_loadgen(self._settings.folder("bin"), party.port, (*args, *party.loadgen_args))

    def _image_args(self, scenario: Scenario) -> tuple[str, ...]:
        if scenario.image is None:
            return ()
        body = ("--body", str(self._body.path))
        if scenario.image == "same":
            return body
        self._next_salt += SALTS_PER_RUN
        return (*body, "--salt", self._body.salt, "--salt-start", str(self._next_salt))

    def _own_cpu_s(self) -> float:
        return time.process_time() + sum(cpu_seconds(party.pids()) for party in self._parties)


def _require_alive(party: Party, scenario: Scenario) -> None:
    for role in party.roles:
        if not role.is_alive():
            raise BenchError(f"{party.name}: its {role.name} process ended during {scenario.name}")
