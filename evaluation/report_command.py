"""`galen evaluate report`: a run's report made anew, and its questions as CSV.

What does *not* live here: how (`remaking.py`).
"""

from pathlib import Path
from typing import Annotated

import typer

from modeling.tool_errors import say


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    *,
    gt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The run's questions; without it no references."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of their images; default: none.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a run of `judge`, whose answers lie elsewhere."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: report.html in the folder.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the questions with their values.")
    ] = None,
) -> None:
    """Make a run's HTML report anew, of a benchmark or of the judged chat; nothing is asked.

    A receipt holds no text: questions and references come from --gt, pictures from --images.
    Files that are not those of the run are refused.

    For example:

    galen evaluate report evaluations/vqa-rad-llava-med --gt test.json --images images

    galen evaluate report evaluations/chat-llava-med --gt qa50.jsonl --csv items.csv
    """
    from evaluation.csv_file import write_csv
    from evaluation.remaking import Beside, remake
    from evaluation.run_folder import REPORT_FILE

    file = out or run / REPORT_FILE
    rows = remake(run, Beside(gt, images, answers), file)
    without = "" if gt is not None else ", without references: they are in the file for --gt"
    say(f"{file} is written{without}")
    if csv is not None:
        write_csv(csv, rows)
        say(f"{csv} is written")
