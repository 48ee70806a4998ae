"""A run over two ranks, one of which is killed, goes on to the numbers of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT
from tests.support.waiting import wait_until
from tests.training.small_runs import Workshop, changed_tensors, losses_of
from training.config import TrainConfig
from training.progress import LOG_FILE
from training.run import run_folder
from training.run_state import checkpoints_in

KILLED_RANK, KILLED_AT, STEPS = 1, 5, 60
LIMIT_S = 180.0


def start(config: TrainConfig, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    recipe = folder / "small.yaml"
    recipe.write_text(config.model_dump_json(), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli", "train", str(recipe), "--cards", "2"],
        cwd=ROOT,
        env=child_environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str]) -> str:
    """Return what a run said when it ended; one that hangs is killed."""
    try:
        return process.communicate(timeout=LIMIT_S)[1]
    finally:
        process.kill()


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [each for each in found if "training.command" in each.cmdline()]


@pytest.mark.timeout(3 * LIMIT_S)
def test_a_run_of_which_one_rank_was_killed_goes_on(workshop: Workshop, tmp_path: Path):
    saved = {
        "output__save_every_steps": 2,
        "optimizer__max_steps": STEPS,
        "devices__sharding": "full",
    }
    whole = workshop.recipe(tmp_path / "whole" / "out", **saved)
    cut = workshop.recipe(tmp_path / "cut" / "out", **saved)
    with start(whole, tmp_path / "whole") as process:
        said = end_of(process)
    assert process.returncode == 0, said

    with start(cut, tmp_path / "cut") as process:
        ranks: list[psutil.Process] = []

        def are_there() -> bool:
            ranks[:] = ranks_of(process)
            return len(ranks) == 2

        wait_until(are_there, "two ranks", LIMIT_S)
        log = run_folder(cut) / LOG_FILE
        wait_until(lambda: log.read_bytes().count(b"\n") >= KILLED_AT, "steps", LIMIT_S)
        os.kill(ranks[KILLED_RANK].pid, signal.SIGKILL)
        said = end_of(process)
    assert process.returncode == 1
    assert f"the process of card {KILLED_RANK} failed" in said.splitlines()[-1]
    assert checkpoints_in(run_folder(cut))

    with start(cut, tmp_path / "cut") as process:
        said = end_of(process)
    assert process.returncode == 0, said
    assert "goes on behind step" in said
    assert losses_of(cut) == losses_of(whole)
    assert len(losses_of(cut)) == STEPS
    assert changed_tensors(whole.output.folder, cut.output.folder) == set()
