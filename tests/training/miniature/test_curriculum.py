"""A short cut of the miniature curriculum: all of its parts learn, and the tower sees."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# So short a cut learns colours and how answers look; `make miniature` shows what is answered.
COUNTS = {
    "shapes": 600, "shapes-told": 300, "shapes-test": 4, "text-only": 200,
    "alignment": 250, "instruct": 200, "vqa-train": 700, "vqa-val": 60, "vqa-test": 60,
}  # fmt: skip
SHARE = 0.05


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
    (folder / "said.txt").write_text(done.stderr, "utf-8")
    return folder


@pytest.mark.timeout(600)
def test_every_stage_learns(folder: Path):
    for stage in ("base", "stage1", "stage2", "vqa"):
        log = folder / "seed-0" / "checkpoints" / f"{stage}.training" / "log.jsonl"
        losses = [json.loads(line)["loss"] for line in log.read_text("utf-8").splitlines()]
        assert sum(losses[-3:]) < sum(losses[:3]), stage
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])  # of the last stage


@pytest.mark.timeout(600)
def test_the_tower_names_what_pictures_show_that_it_was_not_taught(folder: Path):
    said = (folder / "said.txt").read_text("utf-8")
    (line,) = re.findall(r"^galen: tower: (background .*)$", said, re.MULTILINE)
    share = {name: int(percent) for name, percent in re.findall(r"(\w+) (\d+)%", line)}

    assert share["background_colour"] > 75  # a guesser: 10 of ten colours
    assert share["shape_colour"] > 50
    assert share["shape"] > 35  # a guesser: 20 of five shapes


@pytest.mark.timeout(600)
def test_the_report_has_a_row_for_each_stage_and_a_plot(folder: Path):
    report = (folder / "report.md").read_text("utf-8")

    for name in ("base", "stage1", "stage2", "vqa", "vqa on noise"):
        assert f"\n| {name} | " in report
    assert (folder / "miniature-losses.svg").stat().st_size > 1000
