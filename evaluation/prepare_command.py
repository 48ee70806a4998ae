"""`galen data prepare`: public benchmarks as they are published, into LLaVA-Med's layout.

What does *not* live here: the formats (`preparing/`).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evaluation.errors import EvaluationError
from evaluation.options import EXIT_INCOMPLETE
from modeling.tool_errors import run_tool, say

if TYPE_CHECKING:
    from evaluation.preparing.records import Split

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def prepare_command(
    name: Annotated[Literal["vqa-rad", "slake", "pathvqa"], typer.Argument(help="Benchmark.")],
    *,
    raw: Annotated[Path, typer.Option(metavar="DIR", help="The original, as it is published.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")],
) -> None:
    """Turn a public benchmark into SPLIT.json and images; compare it with the published splits.

    vqa-rad: "VQA_RAD Dataset Public.json" and "VQA_RAD Image Folder"; slake: train.json,
    validate.json, test.json and imgs, of which the English questions are taken; pathvqa: Parquet.

    Exit code 0: done; 1: an error; 2: misuse; 3: questions were left out.

    For example:

    galen data prepare vqa-rad --raw ./osf-vqa-rad --out ./vqa-rad
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from evaluation.benchmarks import BENCHMARKS
    from evaluation.preparing import writing
    from evaluation.tables import aligned

    if not raw.is_dir():
        raise EvaluationError(f"{raw} is no folder")
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed} questions"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        prepared = writing.write_splits(_splits(name, raw), raw, out, lambda: bar.advance(task))
    published = BENCHMARKS[name].published
    rows: list[list[str]] = []
    for split in prepared:
        told = published.get(split.name)
        is_same = told == split.counts
        rows.append(
            [
                split.name,
                str(split.counts.open),
                str(split.counts.closed),
                str(len(split.images)),
                "-" if told is None else "yes" if is_same else f"no: {told.open} and {told.closed}",
            ]
        )
    print(aligned(["split", "open", "closed", "images", "as published"], rows))
    for (first, second), num in writing.shared_images(prepared).items():
        say(f"{first} and {second} share {num} images: a model tuned on {first} has seen them")
    left_out = [(split.name, why, num) for split in prepared for why, num in split.left_out.items()]
    for split_name, why, num in left_out:
        say(f"{split_name}: {num} questions left out: {why}")
    if left_out:
        raise typer.Exit(EXIT_INCOMPLETE)


def _splits(name: str, raw: Path) -> "list[Split]":
    if name == "vqa-rad":
        from evaluation.preparing.vqa_rad import splits
    elif name == "slake":
        from evaluation.preparing.slake import splits
    else:
        from evaluation.preparing.pathvqa import splits
    return splits(raw)


if __name__ == "__main__":
    run_tool(
        app, "galen data prepare", sys.argv[1:], mistakes=(EvaluationError,), extra="evaluation"
    )
