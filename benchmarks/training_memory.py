"""Measures how much memory a training takes at most, beside what `galen train --plan` says.

A LLaVA of 110 million weights in float32 on this CPU, one process for each recipe; the process's
memory before the model is loaded (libraries, data) is taken off, and so is the plan's share for a
GPU's context. On a GPU nothing was measured yet.

Run: python -m benchmarks.training_memory [--write-page]
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from benchmarks.training_layouts import write_data
from modeling.tiny import TinySizes

PAGE = REPOSITORY / "docs" / "benchmarks.md"
RECIPES = ("stage1_align", "stage2_instruct", "stage2_lora")
SIZES = TinySizes(
    vision_width=256, vision_layers=4, text_width=1024, text_layers=8, heads=8, kv_heads=8
)
STEPS = 3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    *,
    write_page: Annotated[
        bool, typer.Option(help="Put the figures into docs/benchmarks.md.")
    ] = False,
    recipe: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train by each recipe; print a section of Markdown."""
    if recipe is not None and folder is not None:
        print(json.dumps(measure(recipe, folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), SIZES)
        found = [measured_apart(recipe, Path(name)) for recipe in RECIPES]
    section = section_of(found)
    print(section)
    if write_page:
        replace_section(PAGE, "training-memory", section)


def measured_apart(recipe: str, folder: Path) -> dict[str, float]:
    """Measure in a process of its own: what one recipe leaves is not the next one's."""
    command = [sys.executable, "-m", "benchmarks.training_memory"]
    done = subprocess.run(
        [*command, "--recipe", recipe, "--folder", str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(recipe: str, folder: Path) -> dict[str, float]:
    """Train a few steps; returns planned and measured bytes."""
    from modeling.cards import main_memory  # noqa: PLC0415 - libraries come before the baseline
    from modeling.model_shape import read_shape  # noqa: PLC0415
    from training import run  # noqa: PLC0415
    from training.audit import audit  # noqa: PLC0415
    from training.config import read_recipe  # noqa: PLC0415
    from training.plan import plan_training  # noqa: PLC0415
    from training.processor import open_processing  # noqa: PLC0415

    settings = [
        f"model.path={folder / 'base'}",
        "model.precision=fp32",
        "train.new_tokens=[]",
        f"data.files=[{folder / 'records.json'}]",
        f"data.image_folder={folder / 'images'}",
        "data.max_length=1024",
        "data.limits.truncated=1.0",
        "data.workers=0",
        "batch.examples=8",
        "batch.rows=2",
        "batch.row_tokens=1024",
        f"optimizer.max_steps={STEPS}",
        f"output.folder={folder / f'out-{recipe}'}",
    ]
    config = read_recipe(recipe, settings)
    table_of_data = audit(config, open_processing(config.model.path), folder / f"audit-{recipe}")
    shape = read_shape(str(config.model.path))
    plan = plan_training(config, shape, [main_memory()], table_of_data.statistics())
    peak = _Peak()
    run.train(config)
    return {
        "recipe": recipe,  # type: ignore[dict-item]  # the one text
        "planned": plan.memory.peak - plan.memory.overhead,
        "measured": peak.stop(),
        "trained": plan.counts.trained,
    }


def section_of(found: list[dict[str, float]]) -> str:
    """Return the figures in words."""
    rows = [
        [
            str(each["recipe"]),
            f"{each['trained'] / 1e6:.1f}",
            f"{each['planned'] / 1e6:,.0f}",
            f"{each['measured'] / 1e6:,.0f}",
            f"{each['measured'] / each['planned']:.2f}",
        ]
        for each in found
    ]
    head = ["recipe", "trained, million", "planned, MB", "measured, MB", "measured / planned"]
    return "\n".join(
        [
            "## Memory of a training beside `--plan`",
            "",
            "A LLaVA of 110 million weights in float32 on this CPU, 2 rows of 1,024 tokens, "
            f"{STEPS} steps; `python -m benchmarks.training_memory --write-page`. The plan is a "
            "bound: it adds up parts that do not peak in the same moment. Nothing was measured on "
            "a GPU.",
            "",
            table(head, rows),
        ]
    )


class _Peak:
    """The most memory of this process above what it has now, looked at every few milliseconds."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._stopped.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)


if __name__ == "__main__":
    app()
