"""The command line of the data page: `galen datagen stats` runs this module.

    python -m datagen.stats.command --help

What does *not* live here: counting and drawing (`writing.py`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from datagen.errors import DataError
from modeling.tool_errors import run_tool, say

EXIT_LEFT_OUT = 3
_MOST_SAMPLES = 400
_MOST_SEED = 2**32 - 1

app = typer.Typer(
    name="stats",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def stats_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Conversations: a JSON list or JSON lines."),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of their images, to show some of them.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, max=_MOST_SAMPLES, help="Conversations to show, drawn at random.")
    ] = 24,
    seed: Annotated[
        int, typer.Option(min=0, max=_MOST_SEED, help="Another seed shows others.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Records to read; default: all.")] = None,
) -> None:
    """Draw what a file of conversations is made of, and show some of them with their images.

    Writes a page that needs nothing else (stats.html), its drawings (PNG) and the numbers
    (stats.json): root verbs with their nouns, domains, rounds, lengths. Verbs and nouns are found
    by rules, in English. FILE may also be what `galen datagen instruct` wrote.

    Exit codes: 0; 1: nothing could be made; 2: misuse; 3: records could not be read and are
    missing in the numbers.

    For example:

    galen datagen stats instruct.json --images ./images --out ./look

    galen datagen stats generated.jsonl --out ./look --limit 10000
    """
    from datagen.record_bar import record_bar
    from datagen.stats.writing import PAGE, Wish, write_statistics

    with record_bar("counting") as advance:
        wish = Wish(file, out, images, samples, seed, limit)
        tally = write_statistics(wish, advance)
    typer.echo(f"{out / PAGE}: {tally.num_items} conversations")
    if tally.problems:
        for kind, number in tally.problems.most_common():
            say(f"{number} left out: {kind}")
        raise typer.Exit(EXIT_LEFT_OUT)


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    run_tool(app, "galen datagen stats", arguments, mistakes=(DataError,), extra="datagen")


if __name__ == "__main__":
    main(sys.argv[1:])
