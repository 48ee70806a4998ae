"""`galen data inspect`: what a file of data is, what it holds, what is wrong with it.

    python -m datagen.inspect_command --help

What does *not* live here: all of it but options and words for the user.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.errors import DataError
from modeling.tool_errors import run_tool

if TYPE_CHECKING:
    from datagen.inspecting import Contents

_EXIT_PROBLEMS = 3

app = typer.Typer(
    name="inspect",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def inspect_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, a JSON list, lists by domain, CSV, TSV, Parquet; or a folder of"
            " images."
        ),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for other programs.")] = False,
    encoding: Annotated[str, typer.Option(help="Of CSV and TSV.")] = "utf-8",
) -> None:
    """Say what a file of data is, count what it holds, and list what is wrong with it.

    Known are LLaVA-Med's training items, VQA items, figures with captions, image lists, chat
    questions and answers, what `galen datagen` makes of figures, the manifest of a download, and
    tables of images with captions, as `galen data captions` takes them. Of a folder, images are
    counted by format, DICOM also by modality and by what would not be converted.
    Nothing of a record's text, and no name of a file, is printed.

    Exit code 0: nothing is wrong; 1: the file cannot be read; 2: misuse; 3: there are problems.

    For example:

    galen data inspect llava_med_instruct_60k_inline_mention.json

    galen data inspect --json answers.jsonl

    galen data inspect ./studies
    """
    from datagen.inspecting import inspect
    from datagen.inspecting_images import inspect_folder

    if file.is_dir():
        found = inspect_folder(file)
        told = [f"{file}: a folder of images", *found.text()]
        print(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(told))
        if found.problems:
            raise typer.Exit(_EXIT_PROBLEMS)
        return
    contents = inspect(file, encoding)
    print(json.dumps(contents.as_json(), indent=2) if as_json else _text(file, contents))
    if contents.problems:
        raise typer.Exit(_EXIT_PROBLEMS)


def _text(file: Path, contents: "Contents") -> str:
    counted = contents.counted
    match contents.shape:
        case "lines":
            shape = "JSON lines"
        case "list" | "lists by name":
            shape = f"a JSON {contents.shape}"
        case _:
            shape = contents.shape
    lines = [f"{file}: {contents.schema or 'nothing that is known'}, {shape}"]
    lines.append(f"  {contents.num_records} records")
    if counted.articles:
        lines.append(f"  {len(counted.articles)} articles")
    if counted.domains:
        told = (f"{name} {num}" for name, num in counted.domains.most_common())
        lines.append(f"  domains: {', '.join(told)}")
    if counted.rounds:
        total = sum(rounds * num for rounds, num in counted.rounds.items())
        mean = total / counted.rounds.total()
        least, most = min(counted.rounds), max(counted.rounds)
        lines.append(f"  questions: {total}, {mean:.2f} each, from {least} to {most}")
    for name, values in counted.values.items():
        told = (f"{value!a} {num}" for value, num in values.most_common(12))
        lines.append(f"  {name}: {', '.join(told)}")
    if counted.num_misspelt:
        lines.append(f"  {counted.num_misspelt} with the misspelt key conversatons: is read")
    where = "line" if contents.shape in {"lines", "CSV", "TSV"} else "record"
    for kind, num in contents.problems.most_common():
        first = ", ".join(map(str, contents.first[kind]))
        more = ", ..." if num > len(contents.first[kind]) else ""
        lines.append(f"  problem: {kind}: {num} ({where} {first}{more})")
    if not contents.problems:
        lines.append("  no problems")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run a command line and end the process."""
    run_tool(app, "galen data inspect", arguments, mistakes=(DataError,), extra="datagen")


if __name__ == "__main__":
    main(sys.argv[1:])
