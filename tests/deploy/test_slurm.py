"""The batch scripts for Slurm: their syntax, and what they do, with stand-ins for Slurm's commands.

A cluster of two nodes is a stand-in `srun` that runs a step once for each of them. The platform and
`galen evaluate` are the real ones, on the fake engine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.chart import ROOT
from tests.support.waiting import wait_until

SCRIPTS = sorted((ROOT / "deploy" / "slurm").glob("*.sbatch"))
_SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
  SLURM_NODEID=$node "$@" &
done
trap 'kill -TERM $(jobs -p); wait; exit 143' TERM
wait
"""
_SCONTROL = """#!/bin/bash
echo "$@" >> "$CALLS/scontrol"
if [ "$1" = show ]; then printf 'node-a\\nnode-b\\n'; fi
"""
_GALEN = """#!/bin/bash
echo "$@" >> "$CALLS/galen.$SLURM_NODEID"
if [ -n "${HANGS:-}" ]; then exec sleep 60; fi
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job of two nodes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": _SRUN, "scontrol": _SCONTROL, "galen": _GALEN}.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    outer = os.environ  # noqa: TID251 - of the commands that a script calls
    return {
        "PATH": f"{programs}:{outer['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "CALLS": str(tmp_path),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
    }


TRAINING = {
    "RECIPE": "stage2_instruct", "MODEL": "/m", "DATA": "/d.json", "IMAGES": "/i", "OUT": "/o",
}  # fmt: skip


def script(name: str) -> Path:
    return ROOT / "deploy" / "slurm" / f"{name}.sbatch"


def run(
    name: str, environment: Mapping[str, str], *words: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", script(name), *words],
        env=dict(environment), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_shellcheck_finds_nothing(file: Path) -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--severity=warning", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_a_job_may_be_queued_again_and_is_told_in_time(file: Path) -> None:
    options = [
        line.split()[1] for line in file.read_text().splitlines() if line.startswith("#SBATCH")
    ]

    assert "--requeue" in options
    assert any(option.startswith("--signal=B:USR1@") for option in options)
    assert "--open-mode=append" in options  # a job that is queued again keeps what it has said


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_what_is_missing_is_named(name: str, cluster: dict[str, str]) -> None:
    done = run(name, cluster)

    assert done.returncode != 0
    assert "a recipe of" in done.stderr if name == "train" else "MODEL" in done.stderr


def test_each_node_trains_as_one_of_all(cluster: dict[str, str], tmp_path: Path) -> None:
    done = run("train", {**cluster, **TRAINING}, "--set", "optimizer.epochs=3")

    assert done.returncode == 0, done.stderr
    for number in range(2):
        words = (tmp_path / f"galen.{number}").read_text().split()
        assert words[:2] == ["train", "stage2_instruct"]
        assert words[-8:-6] == ["--set", "optimizer.epochs=3"]
        assert words[-6:] == [
            "--nodes", "2", "--rendezvous", "node-a:24711", "--node-rank", str(number),
        ]  # fmt: skip


def test_one_node_needs_no_meeting_place(cluster: dict[str, str], tmp_path: Path) -> None:
    done = run("train", {**cluster, **TRAINING, "SLURM_JOB_NUM_NODES": "1"})

    assert done.returncode == 0, done.stderr
    words = (tmp_path / "galen.0").read_text().split()
    assert "--nodes" not in words
    assert words[-2:] == ["--set", "output.save_every_steps=100"]


def test_training_leaves_before_its_time_is_over_and_is_queued_again(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    job = subprocess.Popen(
        ["bash", script("train")],
        env={**cluster, **TRAINING, "HANGS": "yes"},
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "galen.1").exists, "the step of the second node", 30)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(30) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)

    assert (tmp_path / "scontrol").read_text().splitlines()[-1] == "requeue 4711"


def test_a_platform_that_does_not_start_ends_the_job(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin" / "galen").write_text("#!/bin/bash\n[ $1 = keys ]\n", encoding="utf-8")
    results = {"MODEL": "/m", "BENCHMARK": "phantoms", "DATA": "/d", "OUT": str(tmp_path / "out")}

    done = run("evaluate", {**cluster, **results})

    assert done.returncode == 1
    assert "the platform did not start" in done.stdout
    assert list(tmp_path.glob("galen-job-*")) == []


@pytest.mark.e2e
def test_an_evaluation_starts_its_own_platform_and_keeps_its_receipt(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    galen = f'#!/bin/bash\nexec {sys.executable} -m services.cli "$@"\n'
    (tmp_path / "bin" / "galen").write_text(galen, encoding="utf-8")
    short = Path(tempfile.mkdtemp(prefix="galen-sl-"))  # a socket's path is limited
    environment = {
        **cluster,
        "TMPDIR": str(short),
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 9_000),
        "MODEL": "demo",
        "UP_OPTIONS": "--engine fake",
        "BENCHMARK": "phantoms",
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "results" / "one"),
    }
    parts = (
        "shapes", "shapes-told", "shapes-test", "text-only", "alignment", "instruct", "vqa-train",
        "vqa-val",
    )  # fmt: skip
    few = [word for part in parts for word in (f"--{part}", "0")]
    drawing = [tmp_path / "bin" / "galen", "data", "phantoms", "--out", tmp_path / "data"]
    drawn = subprocess.run(
        [*drawing, "--vqa-test", "4", *few],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr

    done = run("evaluate", environment, "--limit", "4")

    assert done.returncode == 0, done.stdout + done.stderr
    receipt = json.loads((tmp_path / "results" / "one" / "receipt.json").read_text())
    assert (receipt["model"], receipt["status"], receipt["num_unanswered"]) == (
        "demo",
        "complete",
        0,
    )
    assert (tmp_path / "results" / "one" / "report.html").is_file()
    assert list(short.glob("galen-job-*")) == []  # with the key of this job
    shutil.rmtree(short)
