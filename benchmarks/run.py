"""Measures Galen beside its peers and writes docs/benchmarks.md.

What does *not* live here: the loads (`scenarios.py`), the gateways (`peers.py`, `ours.py`), the
targets (`targets.py`), the page (`report.py`).
"""

import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.gateway_profile import Profile, profile_gateway
from benchmarks.image_body import write_image_body
from benchmarks.native_build import build_programs
from benchmarks.ours import REPOSITORY, redis_program, start_galen
from benchmarks.page_sections import keep_sections
from benchmarks.party import DIRECT, GALEN, LITELLM, NGINX, VLLM_ROUTER, Party
from benchmarks.peers import (
    start_litellm,
    start_mock_engine,
    start_nginx,
    start_vllm_router,
)
from benchmarks.processes import BenchError, ChildProcesses
from benchmarks.report import Run, RunFacts, render_report, render_targets
from benchmarks.results import Results
from benchmarks.rounds import Bench, Measurement
from benchmarks.scenarios import SCENARIOS, Scenario, choose_scenarios
from benchmarks.settings import BenchSettings
from benchmarks.targets import evaluate

PARTIES = (NGINX, VLLM_ROUTER, LITELLM, GALEN)
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PROFILE_S = 8.0
LIBRARIES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "redis",
    "hiredis",
    "msgspec",
)

HELP = f"""Measure Galen beside its peers and write docs/benchmarks.md.

The first run builds the C programs and installs the peers into ~/.cache/galen-bench
(GALEN_BENCH_HOME); that takes some minutes. Raw results are kept there in results/latest.json.

Examples:

    python -m benchmarks.run                        everything, about 14 minutes

    python -m benchmarks.run --quick                one short round, about 4 minutes

    python -m benchmarks.run --only c64_stream --peers nginx --rounds 5

    python -m benchmarks.run --rounds 0 --profile c64_stream   add a profile to the last results

    python -m benchmarks.run --render               write the page again from the last results

Scenarios: {", ".join(each.name for each in SCENARIOS)}.
Peers: {", ".join(PARTIES)}; direct access always runs.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False)


@app.command(help=HELP)
def bench(  # noqa: PLR0913 - one parameter per option
    *,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds; figures are medians.")] = 3,
    secs: Annotated[float, typer.Option(min=0.5, help="Measured seconds, as a rule.")] = 3.0,
    only: Annotated[str, typer.Option(help="Scenarios, separated by commas.")] = "",
    peers: Annotated[str, typer.Option(help="Who runs, separated by commas.")] = ",".join(PARTIES),
    quick: Annotated[bool, typer.Option("--quick", help="One round of 1.5 s.")] = False,
    aof: Annotated[bool, typer.Option("--aof", help="Galen's Redis keeps a log on disk.")] = False,
    profile: Annotated[str, typer.Option(help="Scenarios to profile afterwards.")] = "",
    out: Annotated[Path, typer.Option(help="The page to write.")] = PAGE,
    render: Annotated[bool, typer.Option("--render", help="Only write the page again.")] = False,
) -> None:
    """See HELP."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    settings = BenchSettings()
    try:
        if render:
            run = read_run(settings)
        else:
            if quick:
                rounds, secs = 1, 1.5
            wanted, profiled = choose_scenarios(_names(only)), choose_scenarios(_names(profile))
            parties = _known_parties(_names(peers))
            run = Session(settings, secs, is_durable=aof).run(
                wanted, parties, rounds, profiled if profile else ()
            )
            write_run(settings, run)
    except (BenchError, ValueError) as error:
        console.print(f"[red]error:[/red] {error}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print("interrupted; everything was stopped, nothing was written")
        raise typer.Exit(130) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(keep_sections(out, render_report(run)), encoding="utf-8")
    console.print(render_targets(evaluate(Results(run.measurements))), soft_wrap=True)
    console.print(f"\nwrote {out} and {_latest(settings)}")


class Session:
    """One run: starts the parties, measures, stops them."""

    def __init__(self, settings: BenchSettings, secs: float, *, is_durable: bool) -> None:
        self._settings = settings
        self._secs = secs
        self._is_durable = is_durable
        self._left_out: dict[str, str] = {}

    def run(
        self,
        scenarios: Sequence[Scenario],
        names: Sequence[str],
        num_rounds: int,
        profiled: Sequence[Scenario],
    ) -> Run:
        """Measure and profile; `num_rounds` 0 keeps the last measurements."""
        build_programs(self._settings.folder("bin"))
        body = write_image_body(self._settings.folder("run"))
        with ChildProcesses(self._settings.folder("logs")) as children:
            parties = self._start(names, children)
            new_bench = Bench(self._settings, parties, body, self._secs)
            for party in parties:
                new_bench.warm_up(party)
            measurements = _measure(new_bench, scenarios, num_rounds)
            profiles = self._profile(new_bench, parties, profiled)
        if not num_rounds:
            last = read_run(self._settings)
            kept = [each for each in last.profiles if each.scenario not in _scenarios_of(profiles)]
            return msgspec.structs.replace(last, profiles=[*kept, *profiles])
        return Run(self._facts(parties, num_rounds), measurements, profiles)

    def _start(self, names: Sequence[str], children: ChildProcesses) -> list[Party]:
        starters: dict[str, Callable[[], Party]] = {
            NGINX: lambda: start_nginx(self._settings, children),
            VLLM_ROUTER: lambda: start_vllm_router(self._settings, children),
            LITELLM: lambda: start_litellm(self._settings, children),
            GALEN: lambda: start_galen(self._settings, children, is_durable=self._is_durable),
        }
        parties = [start_mock_engine(self._settings, children)]
        for name in names:
            with console.status(f"starting {name} (the first time it is installed)"):
                try:
                    parties.append(starters[name]())
                except BenchError as error:
                    self._left_out[name] = str(error)
                    console.print(f"[yellow]left out: {name}: {error}[/yellow]")
        return parties

    def _profile(
        self, new_bench: Bench, parties: Sequence[Party], scenarios: Sequence[Scenario]
    ) -> list[Profile]:
        ours = next((party for party in parties if party.name == GALEN), None)
        if ours is None:
            return []
        folder = self._settings.folder("results")
        profiles: list[Profile] = []
        for scenario in scenarios:
            with console.status(f"profiling the gateway during {scenario.name}"):
                profiles.append(profile_gateway(new_bench, scenario, ours, folder, PROFILE_S))
        return profiles

    def _facts(self, parties: Sequence[Party], num_rounds: int) -> RunFacts:
        versions = {party.name: party.version for party in parties if party.name != DIRECT}
        versions["python"] = platform.python_version()
        versions["redis-server"] = _redis_version()
        versions |= {name: version(name) for name in LIBRARIES}
        kept = "an append-only file, flushed every second" if self._is_durable else "no persistence"
        return RunFacts(
            date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            command=shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
            machine=_machine(),
            versions=versions,
            num_rounds=num_rounds,
            left_out=self._left_out,
            notes=[f"Galen at commit {_commit()}; its Redis on a Unix socket, {kept}."],
        )


def read_run(settings: BenchSettings) -> Run:
    """Return the last results."""
    with suppress(FileNotFoundError):
        return msgspec.json.decode(_latest(settings).read_bytes(), type=Run)
    raise BenchError("there are no results yet: run without --render and with --rounds 1 or more")


def write_run(settings: BenchSettings, run: Run) -> None:
    """Keep the results."""
    _latest(settings).write_bytes(msgspec.json.format(msgspec.json.encode(run)))


def _measure(new_bench: Bench, scenarios: Sequence[Scenario], num_rounds: int) -> list[Measurement]:
    plan = list(new_bench.plan(scenarios, num_rounds))
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    measurements: list[Measurement] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(plan))
        for round_index, scenario, party in plan:
            progress.update(task, description=f"{scenario.name} {party.name}")
            measured = new_bench.measure(round_index, scenario, party)
            measurements.append(measured)
            progress.advance(task)
            progress.console.print(_line(measured), soft_wrap=True)
    return measurements


def _line(measured: Measurement) -> str:
    load, cpu = measured.load, measured.cpu_us_per_token()
    failed = f"  [red]{load.err}[/red] {load.errsample}" if load.err.total() else ""
    return (
        f"{measured.round_index + 1} {measured.scenario:15} {measured.party:12}"
        f"{load.rps:9.1f} req/s {load.tok_s:10,.0f} tok/s  TTFT {load.ttft_ms.p50:8.2f} /"
        f"{load.ttft_ms.p99:9.2f} ms  {'-' if cpu is None else f'{cpu:.1f}':>7} us/tok{failed}"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _known_parties(names: Sequence[str]) -> list[str]:
    if unknown := sorted(set(names) - set(PARTIES)):
        raise ValueError(f"unknown peer {unknown[0]!r}; there are {', '.join(PARTIES)}")
    return [name for name in PARTIES if name in names]


def _scenarios_of(profiles: Sequence[Profile]) -> set[str]:
    return {each.scenario for each in profiles}


def _latest(settings: BenchSettings) -> Path:
    return settings.folder("results") / "latest.json"


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_gb = psutil.virtual_memory().total / 1e9
    name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    model = models[0] if models else platform.machine()
    return f"{psutil.cpu_count()} cores ({model}), {memory_gb:.0f} GB, {name}"


def _redis_version() -> str:
    command = [redis_program(), "--version"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    return shown.stdout.partition("v=")[2].partition(" ")[0]


def _commit() -> str:
    def git(*args: str) -> str:
        try:
            done = subprocess.run(
                ["git", *args], cwd=REPOSITORY, check=False, capture_output=True, text=True
            )
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{commit} with local changes" if git("status", "--porcelain") else commit


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app()
