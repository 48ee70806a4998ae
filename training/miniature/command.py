"""The miniature curriculum from nothing to its report: `make miniature` runs this.

    python -m training.miniature.command --out DIR [--seeds 0,1,2]

What does *not* live here: the curriculum (`curriculum.py`) and its report (`report.py`).
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from modeling.checkpoint_files import CheckpointError
from modeling.tool_errors import EXIT_FAILED, run_tool, say
from training.errors import TrainingError

_QUESTIONS = {"val": "phantoms/vqa/val.json", "test": "phantoms/vqa/test.json"}
_WHOLE = 1.0

app = typer.Typer(
    name="miniature",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def miniature_command(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for data and checkpoints.")],
    seeds: Annotated[str, typer.Option(help="One whole curriculum for each.")] = "0",
    questions: Annotated[
        str, typer.Option(help="val to choose settings by, test to report once.")
    ] = "test",
    share: Annotated[
        float, typer.Option(min=0.001, max=_WHOLE, help="Of all steps; less is quicker.")
    ] = _WHOLE,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables into this Markdown file.")
    ] = None,
    ship_to: Annotated[
        Path | None,
        typer.Option("--ship", metavar="DIR", help="Put the first model and its card there."),
    ] = None,
) -> None:
    """Train a tiny LLaVA on two CPU cores: base, stage 1, stage 2, fine-tuning, and ask it.

    What an interrupted call finished is kept; the same call goes on behind it.

    For example:

    make miniature

    python -m training.miniature.command --out miniature --seeds 0,1,2 --report docs/miniature.md
    """
    if questions not in _QUESTIONS:
        say(f"--questions {questions!r}: take val or test")
        raise typer.Exit(EXIT_FAILED)
    if not all(seed.strip().isdecimal() for seed in seeds.split(",")):
        say(f"--seeds {seeds!r}: write numbers with commas between, such as 0,1,2")
        raise typer.Exit(EXIT_FAILED)
    from training.miniature.curriculum import Plan, note_seconds, run_curriculum
    from training.miniature.report import tables, write_report
    from training.miniature.shipping import ship

    runs: list[Path] = []
    for seed in map(int, seeds.split(",")):
        run = out / f"seed-{seed}"
        seconds = _draw(run / "data", seed)
        plan = Plan(run / "data", run / "checkpoints", seed, share)
        if seconds is not None:
            note_seconds(plan, "data", seconds)
        run_curriculum(plan, _QUESTIONS[questions], say)
        runs.append(plan.out)
    typer.echo("\n".join(tables(runs, _QUESTIONS[questions])))
    if report is not None:
        write_report(runs, _QUESTIONS[questions], report)
        say(f"{report} is written")
    if ship_to is not None:
        ship(runs[0].parent, _QUESTIONS[questions], ship_to)
        say(f"{ship_to} is written")
    say(f"ask it: galen up --model {runs[0] / 'vqa'}")


def _draw(data: Path, seed: int) -> float | None:
    """Draw the pictures, unless they are there; returns the seconds that it took."""
    if data.is_dir():
        return None
    started = time.monotonic()
    command = ["-m", "datagen.phantoms.command", "--out", str(data), "--seed", str(seed)]
    if subprocess.run([sys.executable, *command], check=False).returncode:  # noqa: S603 - ours
        raise typer.Exit(EXIT_FAILED)
    return time.monotonic() - started


if __name__ == "__main__":
    mistakes = (TrainingError, CheckpointError)
    run_tool(app, "miniature", sys.argv[1:], mistakes=mistakes, extra="training")
