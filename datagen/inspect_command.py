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
    file: Annotated[Path, typer.Argument(help="JSON lines, a JSON list, or lists by domain.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for other programs.")] = False,
) -> None:
    """Say what a file of data is, count what it holds, and list what is wrong with it.

    Known are LLaVA-Med's training items, VQA items, figures with captions, image lists, chat
    questions and answers, what `galen datagen` makes of figures, and the manifest of a download.
    Nothing of a record's text is printed.

    Exit code 0: nothing is wrong; 1: the file cannot be read; 2: misuse; 3: there are problems.

    For example:

    galen data inspect llava_med_instruct_60k_inline_mention.json

    galen data inspect --json answers.jsonl
    """
    from datagen.inspecting import inspect

    contents = inspect(file)
    print(json.dumps(contents.as_json(), indent=2) if as_json else _text(file, contents))
    if contents.problems:
        raise typer.Exit(_EXIT_PROBLEMS)


def _text(file: Path, contents: "Contents") -> str:
    shape = "JSON lines" if contents.shape == "lines" else f"a JSON {contents.shape}"
    lines = [f"{file}: {contents.schema or 'nothing that is known'}, {shape}"]
    lines.append(f"  {contents.num_records} records")
    if contents.num_articles:
        lines.append(f"  {contents.num_articles} articles")
    if contents.domains:
        told = (f"{name} {num}" for name, num in contents.domains.most_common())
        lines.append(f"  domains: {', '.join(told)}")
    if contents.rounds:
        total = sum(rounds * num for rounds, num in contents.rounds.items())
        mean = total / contents.rounds.total()
        least, most = min(contents.rounds), max(contents.rounds)
        lines.append(f"  questions: {total}, {mean:.2f} each, from {least} to {most}")
    for name, values in contents.values.items():
        told = (f"{value!a} {num}" for value, num in values.most_common(12))
        lines.append(f"  {name}: {', '.join(told)}")
    if contents.num_misspelt:
        lines.append(f"  {contents.num_misspelt} with the misspelt key conversatons: is read")
    where = "line" if contents.shape == "lines" else "record"
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
