"""What a run shows and keeps of each step."""

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from modeling.model_shape import read_shape
from tests.training.small_runs import Workshop, log_of, run
from training.errors import TrainingError
from training.flops import StepWork, step_flops
from training.progress import LOG_FILE, RunProgress
from training.run import run_folder

FIELDS = {
    "step", "loss", "gradient_norm", "learning_rate", "num_tokens", "num_targets", "num_images",
    "attended_tokens", "seconds", "tokens_per_s", "mfu",
}  # fmt: skip


def test_the_log_has_every_step_and_mfu_is_flops_over_the_peak(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = workshop.recipe(
        tmp_path / "out",
        train__language_model="frozen",
        devices={"peak_tflops": 1e-3},
    )
    said = run(config)
    log = log_of(config)
    assert [line["step"] for line in log] == list(range(1, 7))
    assert all(line.keys() == FIELDS for line in log)
    for line in log:
        work = StepWork(
            line["num_tokens"],
            line["num_targets"],
            line["num_images"],
            line["attended_tokens"] / line["num_tokens"],
        )
        flops = step_flops(read_shape(str(workshop.base)), config, work).model
        assert line["mfu"] == pytest.approx(flops / line["seconds"] / 1e9, rel=0.01, abs=1e-4)
        tokens_per_s = line["num_tokens"] / line["seconds"]
        assert line["tokens_per_s"] == pytest.approx(tokens_per_s, rel=0.02)
    assert all(line.startswith("galen: ") for line in said.splitlines() if "step" in line)
    assert "galen: step 6 of 6  loss " in said
    assert capsys.readouterr().out == ""  # transformers prints a table of its own


def seen(step: int) -> dict[str, float]:
    counts = {"num_tokens": 100.0, "num_targets": 10.0, "num_images": 1.0, "attended_tokens": 1e4}
    return {"step": float(step), "loss": 1.5, **counts}


def progress(workshop: Workshop, log: Path, **settings: Any) -> RunProgress:
    config = workshop.recipe(log.parent / "out", **settings)
    shape = read_shape(str(workshop.base))
    return RunProgress(config, shape, log, 5, None)


def test_the_log_may_have_fewer_lines_but_has_the_last_step(workshop: Workshop, tmp_path: Path):
    log = tmp_path / LOG_FILE
    with progress(workshop, log, output__log_every_steps=2) as shown:
        for step in range(1, 6):
            shown(seen(step))
    steps = [json.loads(line)["step"] for line in log.read_text("utf-8").splitlines()]
    assert steps == [2, 4, 5]
    assert "mfu" not in log.read_text("utf-8")


def test_without_a_terminal_a_line_comes_now_and_then(
    workshop: Workshop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    shown = progress(workshop, tmp_path / LOG_FILE)
    now_s = time.monotonic()
    for step in range(1, 5):
        now_s += 16.0
        monkeypatch.setattr(time, "monotonic", lambda now_s=now_s: now_s)
        shown(seen(step))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["2", "4"]
    assert lines[-1] == "galen: step 4 of 5  loss 1.500  6 tokens/s  0 min left"


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="it is installed here")
def test_a_place_for_the_log_that_is_not_installed_is_said_first(
    workshop: Workshop, tmp_path: Path
):
    config = workshop.recipe(tmp_path / "out", output__report_to=["tensorboard"])
    with pytest.raises(TrainingError, match="tensorboard, which is not installed: pip install"):
        run(config)
    assert not run_folder(config).exists()
