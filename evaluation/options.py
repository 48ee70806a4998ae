"""Options that several commands of `galen evaluate` share, and what they mean.

What does *not* live here: commands (`command.py`, `judge_command.py`).
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from evaluation.errors import OtherRunError
from modeling.tool_errors import say

EXIT_MISUSE = 2
EXIT_INCOMPLETE = 3

AtOnce = Annotated[int, typer.Option(min=1, max=1024, help="Questions that are asked at once.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of an answer, at most.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask the first ones only.")]
Candidates = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='Open answers of the training set: {"0": [...]}.'),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NewRun = Annotated[
    bool, typer.Option("--new-run", help="Begin anew; what --out holds of a run is removed.")
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="MODEL", help="Default: the only one at its URL.")
]
Swap = Annotated[
    bool, typer.Option("--swap", help="Ask in both orders; a score is the mean of both.")
]
PricePrompt = Annotated[float, typer.Option(min=0, help="What the judge takes per million tokens.")]
PriceCompletion = Annotated[float, typer.Option(min=0, help="Likewise.")]
MostCost = Annotated[
    float | None,
    typer.Option(min=0, help="The judge is sent nothing that may cost more in all."),
]


@contextmanager
def no_other_run() -> Generator[None]:
    """Another run in the folder is misuse, and not a failure."""
    try:
        yield
    except OtherRunError as error:
        say(str(error))
        raise typer.Exit(EXIT_MISUSE) from None


def say_failed(failed: Mapping[str, str]) -> int:
    """Say how many questions have no answer, and why; returns the exit code."""
    from evaluation.answering import why_failed

    if not failed:
        return 0
    say(
        f"{len(failed)} questions have no answer: {why_failed(failed)}; the same command asks "
        "them again"
    )
    return EXIT_INCOMPLETE


def as_name(model: str) -> str:
    """Return a model's name as one that a folder may have."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"
