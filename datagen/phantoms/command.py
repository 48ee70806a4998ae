"""The command line of the phantoms: `galen data phantoms` runs this module.

    python -m datagen.phantoms.command --help

What does *not* live here: drawing and writing (`writing.py`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from datagen.phantoms.errors import PhantomError
from datagen.phantoms.writing import Counts, write_data
from modeling.tool_errors import run_tool

_DEFAULT = Counts()
_MOST_SEEDS = 2**32

app = typer.Typer(
    name="phantoms",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def phantoms_command(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.", show_default=False)],
    seed: Annotated[
        int, typer.Option(min=0, max=_MOST_SEEDS - 1, help="Another seed gives other images.")
    ] = 0,
    shapes: Annotated[
        int, typer.Option(min=0, help="Everyday pictures for the base.")
    ] = _DEFAULT.shapes,
    shapes_told: Annotated[
        int, typer.Option(min=0, help="So many of them have captions and questions.")
    ] = _DEFAULT.shapes_told,
    shapes_test: Annotated[
        int, typer.Option(min=0, help="Everyday pictures that are asked about only.")
    ] = _DEFAULT.shapes_test,
    text_only: Annotated[
        int, typer.Option(min=0, help="Medical texts without an image, for the base.")
    ] = _DEFAULT.text_only,
    alignment: Annotated[
        int, typer.Option(min=0, help="Scans with captions (stage 1).")
    ] = _DEFAULT.alignment,
    instruct: Annotated[
        int, typer.Option(min=0, help="Scans with dialogues (stage 2).")
    ] = _DEFAULT.instruct,
    vqa_train: Annotated[
        int, typer.Option(min=0, help="Scans with short answers, to fine-tune on.")
    ] = _DEFAULT.vqa_train,
    vqa_val: Annotated[
        int, typer.Option(min=0, help="Scans to choose settings by.")
    ] = _DEFAULT.vqa_val,
    vqa_test: Annotated[
        int, typer.Option(min=0, help="Scans to report about.")
    ] = _DEFAULT.vqa_test,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what this command made before.")
    ] = False,
) -> None:
    """Draw synthetic scans with known truth, and write them in LLaVA-Med's schemas.

    The numbers are of images; each has several questions. The same seed gives the same bytes.

    For example:

    galen data phantoms --out ./phantoms

    galen data phantoms --out ./small --seed 7 --shapes 1000 --vqa-train 500
    """
    counts = Counts(
        shapes,
        shapes_told,
        shapes_test,
        text_only,
        alignment,
        instruct,
        vqa_train,
        vqa_val,
        vqa_test,
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("drawing", total=counts.num_images)
        write_data(out, seed, counts, force=force, advance=lambda: bar.advance(task))
    typer.echo(f"{out}: {counts.num_images} images, {counts.text_only} texts, seed {seed}")


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    stopped = "nothing was kept"
    run_tool(app, "galen data phantoms", arguments, mistakes=(PhantomError,), when_stopped=stopped)


if __name__ == "__main__":
    main(sys.argv[1:])
