"""The command line for images with captions: `galen data captions` runs this module.

    python -m datagen.captions.command --help

What does *not* live here: reading and writing (`writing.py`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from datagen.errors import DataError
from modeling.medical_images.choice import AS_IT_IS, BurnedIn
from modeling.medical_images.recipes import RECIPES
from modeling.tool_errors import run_tool, say

EXIT_LEFT_OUT = 3

app = typer.Typer(
    name="captions",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Column = Annotated[str | None, typer.Option(metavar="NAME", help="Default: by its usual names.")]


@app.command()
def captions_command(
    *,
    table: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Names of images with captions: .csv, .tsv, .json, .jsonl, .parquet.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="File of figures to make.", show_default=False)
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of images; needed unless they are inside the table.",
        ),
    ] = None,
    out_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Link images into this folder under safe names; needed where they are in "
            "sub-folders, inside the table, or DICOM or NIfTI.",
        ),
    ] = None,
    image_column: _Column = None,
    caption_column: _Column = None,
    domain_column: _Column = None,
    mention_column: _Column = None,
    label_column: _Column = None,
    licence_column: _Column = None,
    id_column: _Column = None,
    frame_column: _Column = None,
    recipe: Annotated[
        str, typer.Option(help=f"Of DICOM and NIfTI files: {', '.join(RECIPES)}.")
    ] = AS_IT_IS.recipe,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CENTER/WIDTH", help="Of CT, a name, such as lung; of any, 40/80."
        ),
    ] = None,
    frame: Annotated[
        int | None, typer.Option(min=1, help="Of files with many; a row's own counts more.")
    ] = None,
    burned_in: Annotated[
        BurnedIn,
        typer.Option(help="Files that say that text about a patient is part of their pixels."),
    ] = "block",
    burned_in_heuristic: Annotated[
        bool, typer.Option("--burned-in-heuristic", help="Suspect such text, too.")
    ] = False,
    encoding: Annotated[str, typer.Option(help="Of CSV and TSV.")] = "utf-8",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
) -> None:
    """Turn a folder of images and a table of captions into figures for `galen datagen instruct`.

    Each image is opened. DICOM and NIfTI files become PNG without a tag; what they are made by
    stands in the records and in OUT.converted.jsonl. Rows that cannot be used are counted and
    listed, with the reason, in OUT.problems.jsonl.

    Exit codes: 0; 1: nothing could be made; 2: misuse; 3: rows were left out.

    For example:

    galen data captions --images ./scans --table captions.csv --out figures.jsonl

    galen data captions --images ./scans --table train.parquet --caption-column report
    --out figures.jsonl --out-images ./flat

    galen data captions --table train.parquet --out figures.jsonl --out-images ./images

    galen data captions --images ./studies --table reports.csv --window lung
    --out figures.jsonl --out-images ./images
    """
    from datagen.captions.medical import Conversion, choice_of
    from datagen.captions.writing import Wish, converted_of, problems_of, write_figures
    from datagen.record_bar import record_bar
    from modeling.medical_images.reading import Policy

    given = {
        "image": image_column,
        "caption": caption_column,
        "domain": domain_column,
        "mention": mention_column,
        "label": label_column,
        "licence": licence_column,
        "id": id_column,
        "frame": frame_column,
    }
    columns = {part: name for part, name in given.items() if name is not None}
    policy = Policy(burned_in=burned_in, is_heuristic=burned_in_heuristic)
    conversion = Conversion(choice_of(recipe, window, frame), policy)
    wish = Wish(images, table, out, out_images, columns, encoding, force, conversion)
    with record_bar("reading") as advance:
        made = write_figures(wish, advance)
    if made.columns is not None:
        say(f"taken: {made.columns.shown()}")
    if made.num_unknown_domains:
        say(f"{made.num_unknown_domains} rows name a domain that is none of ours; kept without it")
    if made.num_converted:
        say(f"{made.num_converted} pictures made of DICOM or NIfTI files: {converted_of(out)}")
    typer.echo(f"{out}: {made.num_figures} figures")
    if made.problems:
        for kind, number in made.problems.most_common(10):
            say(f"{number} left out: {kind}")
        say(f"each is listed in {problems_of(out)}")
        raise typer.Exit(EXIT_LEFT_OUT)


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    run_tool(
        app,
        "galen data captions",
        arguments,
        mistakes=(DataError,),
        extra="datagen",
        when_stopped="no figures were kept",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
