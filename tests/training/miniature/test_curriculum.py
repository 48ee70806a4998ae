"""A short cut of the miniature curriculum: all of its parts, and that it learns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# A fifteenth of the pictures and of the steps: what it knows then is the kind of image.
COUNTS = {
    "shapes": 1200, "shapes-told": 500, "shapes-test": 4, "text-only": 200,
    "alignment": 250, "instruct": 200, "vqa-train": 700, "vqa-val": 60, "vqa-test": 60,
}  # fmt: skip
SHARE = 0.08


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    options = [word for name, count in COUNTS.items() for word in (f"--{name}", str(count))]
    data = folder / "seed-0" / "data"
    draw = [sys.executable, "-m", "datagen.phantoms.command", "--out", str(data), *options]
    subprocess.run(draw, check=True, capture_output=True)
    run = [sys.executable, "-m", "training.miniature.command", "--out", str(folder)]
    report = ["--report", str(folder / "report.md")]
    done = subprocess.run(
        [*run, "--share", str(SHARE), "--questions", "val", *report],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "seed-0" / "checkpoints" / "results.json").read_text("utf-8"))


@pytest.mark.timeout(600)
def test_every_stage_learns(folder: Path):
    for stage in ("base", "stage1", "stage2", "vqa"):
        log = folder / "seed-0" / "checkpoints" / f"{stage}.training" / "log.jsonl"
        losses = [json.loads(line)["loss"] for line in log.read_text("utf-8").splitlines()]
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), stage


@pytest.mark.timeout(600)
def test_fine_tuning_answers_what_noise_does_not_tell(found: dict[str, Any]):
    scores = found["scores"]
    seen, blind = (
        scores[f"vqa{suffix} phantoms/vqa/val.json"]["by_kind"] for suffix in ("", " on noise")
    )

    assert seen["OPEN modality"][0] > blind["OPEN modality"][0] + 0.3
    assert (
        scores["vqa phantoms/vqa/val.json"]["open"] > scores["base phantoms/vqa/val.json"]["open"]
    )


@pytest.mark.timeout(600)
def test_the_report_has_a_row_for_each_stage_and_a_plot(folder: Path):
    report = (folder / "report.md").read_text("utf-8")

    for name in ("base", "stage1", "stage2", "vqa", "vqa on noise"):
        assert f"\n| {name} | " in report
    assert (folder / "miniature-losses.svg").stat().st_size > 1000
