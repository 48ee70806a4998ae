"""Fuzzes front doors for a while and counts: executions, and findings with their inputs.

Run: python -m tests.fuzzing dicom --seconds 600
"""

import hashlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tests.fuzzing.seeds import SEEDS
from tests.fuzzing.targets import TARGETS

_EXECUTED = re.compile(r"^(?:#|stat::number_of_executed_units: )(\d+)", re.MULTILINE)
_COVERAGE = re.compile(r" cov: (\d+) ")
_DEFAULT_FOLDER = Path(".cache/fuzzing")
INPUT_LIMIT_S = 20
"""Of the clock, for one input; the product allows 5 s of CPU time and machines are shared."""
RESIDENT_LIMIT_MIB = 1024

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(slots=True)
class Count:
    """What one door saw."""

    executions: int = 0
    coverage: int = 0
    processes: int = 0


def fuzz(name: str, seconds: int, folder: Path) -> Count:
    """Fuzz one door, with as many processes in turn as end before their time."""
    corpus, findings = folder / name / "corpus", folder / name / "findings"
    for each in (corpus, findings):
        each.mkdir(parents=True, exist_ok=True)
    _write_seeds(name, corpus)
    count, ends_at = Count(), time.monotonic() + seconds
    while (left_s := round(ends_at - time.monotonic())) > 0:
        printed = _run_once(name, left_s, corpus, findings)
        count.processes += 1
        executed = [int(number) for number in _EXECUTED.findall(printed)]
        count.executions += max(executed, default=0)
        covered = [int(number) for number in _COVERAGE.findall(printed)]
        count.coverage = max([count.coverage, *covered])
        if not executed:
            raise RuntimeError(f"the harness of {name} did not start:\n{printed[-2000:]}")
    return count


def _run_once(name: str, seconds: int, corpus: Path, findings: Path) -> str:
    options = [
        f"-max_total_time={seconds}", f"-timeout={INPUT_LIMIT_S}", "-print_final_stats=1",
        f"-rss_limit_mb={RESIDENT_LIMIT_MIB}", f"-artifact_prefix={findings}/",
        f"-max_len={TARGETS[name].max_bytes}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tests.fuzzing.harness", name, str(findings), *options]
    ended = subprocess.run(
        [*command, str(corpus)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False
    )
    return ended.stderr.decode("utf-8", "replace")


def _write_seeds(name: str, corpus: Path) -> None:
    for file in SEEDS[name]():
        (corpus / hashlib.sha256(file).hexdigest()[:16]).write_bytes(file)


@app.command()
def main(
    names: Annotated[list[str], typer.Argument(help=f"Any of {', '.join(TARGETS)}, or all.")],
    seconds: Annotated[int, typer.Option(min=1, help="For each door.")] = 600,
    folder: Annotated[Path, typer.Option(help="Corpus and findings.")] = _DEFAULT_FOLDER,
) -> None:
    """Fuzz one or more front doors; ends with 1 where something was found.

    For example:

    python -m tests.fuzzing dicom --seconds 600
    """
    chosen = list(TARGETS) if names == ["all"] else names
    if unknown := set(chosen) - set(TARGETS):
        typer.echo(f"error: no such door: {', '.join(sorted(unknown))}", err=True)
        raise typer.Exit(2)
    found = 0
    for name in chosen:
        count = fuzz(name, seconds, folder)
        kept = sorted(path.name for path in (folder / name / "findings").iterdir())
        inputs = [each for each in kept if not each.endswith(".txt")]
        found += len(inputs)
        typer.echo(
            f"{name}: {count.executions} executions, {len(inputs)} findings, coverage"
            f" {count.coverage}, {count.processes} processes"
        )
        for each in inputs:
            typer.echo(f"  {folder / name / 'findings' / each}")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    app()
