"""`galen data download` as a process, with patience that suits a test."""

import subprocess
import sys
from pathlib import Path

from tests.support.program import ROOT

QUICK = ("--backoff", "0.01", "--pause", "0.01", "--stall", "5")


def command(list_file: Path, out: Path, *more: str) -> list[str]:
    module = "datagen.download.command"
    start = [sys.executable, "-m", module, "--list", str(list_file), "--out", str(out)]
    return [*start, *QUICK, *more]


def call(list_file: Path, out: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command(list_file, out, *more),
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done
