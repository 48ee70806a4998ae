"""The commands in README.md and in `docs`: blocks of shell, what is said of each, and inline ones.

A block of shell is fenced as `sh` or `bash`; blocks of `python` count, too. On the line above
stands a comment that nobody sees:

    <!-- commands: run -->                            the tests run it as it stands
    <!-- commands: tested by FILE::TEST, ... -->      these tests run what it says
    <!-- commands: not run, REASON -->                with a reason of `REASONS`

What does *not* live here: whether commands are right (`command_lines.py`), and running them
(`place.py`).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.contracts.source_tree import ROOT

REASONS = frozenset(
    {
        "needs a GPU",
        "needs a published checkpoint",
        "needs data that is not ours to ship",
        "needs the internet",
        "needs a domain and its certificate",
        "needs several machines",
        "needs a cluster",
        "needs a paid teacher or judge",
        "takes minutes or more",
    }
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = frozenset({"sh", "bash", "python"})
_PROGRAMS = ("galen", "make", "docker", "docker-compose", "pip", "curl", "python", "git")
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n)+", re.MULTILINE)
_MARK = re.compile(r"<!-- commands: (.+?) -->\n\n?$")
_INLINE = re.compile(r"(?<!`)`((?:[A-Z_]+=\S* )*(?:galen|make|docker compose) [^`]+)`(?!`)")
_DOCKER = re.compile(r"(?<![\w/-])(docker (?!build )|deploy/compose/\w+\.sh)")
_HERE_DOCUMENT = re.compile(r"<<-?\s*'?(\w+)'?")


class Way(StrEnum):
    """How the commands of a block are known to be right."""

    RUN = "run"
    TESTED = "tested by"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Block:
    """One block of shell and its mark."""

    page: str
    line: int
    text: str
    mark: str
    language: str = "sh"

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def way(self) -> Way | None:
        """None where the mark is missing or not one of the three."""
        return next((way for way in Way if self.mark.startswith(way)), None)

    @property
    def tests(self) -> Sequence[str]:
        """Return the tests that the mark names."""
        return [each.strip() for each in self.mark.removeprefix(Way.TESTED).split(",")]

    @property
    def reason(self) -> str:
        return self.mark.removeprefix(Way.NOT_RUN).lstrip(", ")

    @property
    def commands(self) -> Sequence[str]:
        return () if self.language == "python" else commands_in(self.text)

    @property
    def is_of_compose(self) -> bool:
        """Whether it calls Docker, a script of ours that does, or names a test beside it."""
        is_said = any(test.startswith("compose/") for test in self.tests)
        return is_said or (self.language != "python" and _DOCKER.search(self.text) is not None)


def blocks_of(path: Path, text: str | None = None) -> list[Block]:
    """Return the blocks of shell of a page.

    Args:
        path: in the repository.
        text: of the page; default: what the file holds.
    """
    text = path.read_text(encoding="utf-8") if text is None else text
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if language in LANGUAGES or _is_command(lines):
            mark = _MARK.search(text[: match.start()])
            line = text.count("\n", 0, match.start()) + 1
            said = mark[1] if mark else ""
            found.append(Block(_name(path), line, "\n".join(lines), said, language))
    return found


def indented_commands(path: Path) -> list[str]:
    """Return commands in blocks that are indented and not fenced: no mark can say who runs them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    blocks = [match[0] for match in _INDENTED.finditer(text)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if _is_command([line])]


def inline_commands(path: Path) -> list[str]:
    """Return commands of ours in running text and tables, one line each."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(found[1].split()) for found in _INLINE.finditer(text)]


def commands_in(text: str) -> list[str]:
    """Return the commands of a block: continued lines joined, comments and here documents gone."""
    commands: list[str] = []
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        commands.append(line.strip())
        if end := _HERE_DOCUMENT.search(line):
            for inside in lines:
                if inside.strip() == end[1]:
                    break
    return commands


def words_of(command: str) -> list[list[str]]:
    """Return the words of each part of a pipeline, without settings of variables before it."""
    splitter = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    splitter.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in splitter:
        if set(word) <= set("|&;"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word, re.DOTALL):
            parts[-1].append(word)
    return [part for part in parts if part]


def _is_command(lines: Sequence[str]) -> bool:
    starts = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    return any(start in _PROGRAMS for start in starts)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
