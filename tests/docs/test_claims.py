"""README.md claims nothing without a command that shows it and that CI runs, or a plain reason."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contracts.source_tree import ROOT
from tests.docs.blocks import REASONS, Way, blocks_of, words_of
from tests.docs.command_lines import mistake_in

README = ROOT / "README.md"
TABLES = {"## What exists, and what comes later": 19, "## Promises": 4}
"""The headings of what is claimed, and the least number of rows."""
STATES = re.compile(r"exists([,;] .+)?|never run")
_COMMAND = re.compile(r"`([^`]+)`")
_WORDS = re.compile(r"(`[^`]+`(, )?)+( \(`[^`]+`: [^`]+\))?")
"""Commands, and a longer one with what it does more."""
_TEST = re.compile(r"^(async )?def test_", re.MULTILINE)


def rows_of(heading: str, text: str | None = None) -> list[list[str]]:
    """Return all rows of the table below a heading, whatever they say, each as its cells."""
    text = README.read_text(encoding="utf-8") if text is None else text
    _, _, rest = text.partition(f"\n{heading}\n")
    section, _, _ = rest.partition("\n## ")
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def run_by_ci() -> str:
    """Return what CI calls, and what the Makefile calls of it."""
    files = [ROOT / ".ci" / "run", *(ROOT / ".github" / "workflows").glob("*.yml")]
    said = "\n".join(file.read_text(encoding="utf-8") for file in files)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [of_test] = re.findall(r"^test:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    return said + of_test.replace("$(MAKE)", "make")


def mistakes(cell: str) -> list[str]:
    """Return what is wrong with what a claim is shown by."""
    if cell.removeprefix("none: ") in REASONS:
        return []
    if not _WORDS.fullmatch(cell):
        return [f"{cell!r} is neither commands nor `none: ` and a reason of tests/docs/blocks.py"]
    shown, _, _ = cell.partition(" (`")
    commands = [words for command in _COMMAND.findall(cell) for words in words_of(command)]
    found = [wrong for words in commands if (wrong := mistake_in(words))]
    parts = [words for command in _COMMAND.findall(shown) for words in words_of(command)]
    return found + [wrong for words in parts if (wrong := _unrun(words))]


def _unrun(words: Sequence[str]) -> str | None:
    match words:
        case ["make", "test", arguments] if arguments.startswith("ARGS="):
            return _untested(arguments.removeprefix("ARGS=").split())
        case ["make", target]:
            is_run = re.search(rf"\bmake {re.escape(target)}(?![\w-])", run_by_ci())
            return None if is_run else f"CI does not run make {target}"
        case ["galen", *_]:
            run = [b for b in blocks_of(README) if b.way in {Way.RUN, Way.TESTED}]
            is_run = any(list(words) in words_of(each) for b in run for each in b.commands)
            return None if is_run else f"no block that is run has {' '.join(words)}"
        case _:
            return f"{' '.join(words)} is no command that shows anything"


def _untested(paths: Sequence[str]) -> str | None:
    """Say which path `make test` runs no test of; Docker's and vLLM's have targets of their own."""
    for path in paths:
        files = [file for file in (ROOT / "tests").rglob("test_*.py") if _is_in(file, path)]
        if not any(_TEST.search(file.read_text("utf-8")) for file in files):
            return f"there is no test in {path}"
        if path.startswith(("tests/compose", "tests/vllm")):
            return f"make test alone does not run {path}"
    return None


def _is_in(file: Path, path: str) -> bool:
    return file.is_relative_to(ROOT / path)


@pytest.mark.parametrize("heading", TABLES)
def test_every_claim_has_a_command_that_ci_runs_or_a_reason(heading: str) -> None:
    rows = rows_of(heading)

    assert len(rows) >= TABLES[heading]
    wrong = {row[0][:60]: found for row in rows if (found := mistakes(row[-1]))}
    assert wrong == {}


def test_a_state_says_that_it_exists_and_what_of_it_was_never_tried() -> None:
    rows = rows_of("## What exists, and what comes later")

    assert [row[1] for row in rows if not STATES.fullmatch(row[1])] == []
    assert [row[0] for row in rows if (row[1] == "never run") != row[2].startswith("none")] == []


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("", "neither"),
        ("soon", "neither"),
        ("none: I was lazy", "neither"),
        ("look at the code, `make test`", "neither"),
        ("`make coffee`", "coffee"),
        ("`make miniature`", "CI does not run"),
        ("`make test-faults`", "CI does not run"),
        ('`make test ARGS="tests/none.py"`', "tests/none.py"),
        ('`make test ARGS="tests/docs/place.py"`', "no test in"),
        ('`make test ARGS="tests/compose"`', "alone does not"),
        ("`galen plan llava-med-v1.5-7b --gpus 8xH200`", "no block"),
    ],
)
def test_a_claim_that_nothing_shows_is_found(cell: str, word: str) -> None:
    assert word in "".join(mistakes(cell))


def test_a_row_is_read_whatever_it_says() -> None:
    table = (
        "\n## What\n\n| | state | see it |\n|---|---|---|\n| a | soon |  |\n| b | exists | `c` |\n"
    )

    assert rows_of("## What", f"{table}\n## Next\n") == [["a", "soon", ""], ["b", "exists", "`c`"]]
