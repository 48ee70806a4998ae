"""`galen inspect`: what a checkpoint is, in lines or as JSON.

python -m modeling.checkpoints.inspect_command DIR
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modeling.tool_errors import run_tool

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def inspect_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    *,
    is_hashed: Annotated[
        bool, typer.Option("--hash", help="Read all weights and give their hash.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a checkpoint is, and what would be wrong when it is served.

    Knows LLaVA-Med v1.0 and v1.5 as published, deltas, towers, and what was converted. Ends with
    code 2 where something would be wrong.

    For example:

    galen inspect ./llava-med-v1.5-mistral-7b

    galen inspect ./converted --hash --json
    """
    from modeling.checkpoints.inspection import inspect_folder

    report = inspect_folder(folder, is_hashed=is_hashed)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(f"{folder}: {report.kind}")
        width = max(map(len, report.facts), default=0)
        for label, value in report.facts.items():
            print(f"  {label:{width}}  {value}")
        for problem in report.problems:
            print(f"  ! {problem}")
        for note in report.notes:
            print(f"  - {note}")
        for line in report.advice:
            print(f"  > {line}")
    raise typer.Exit(2 if report.problems else 0)


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    run_tool(app, "galen inspect", arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
