"""Sections of docs/benchmarks.md that are measured by programs of their own.

A section stands between two comments that name it, so that each program replaces its own and
`benchmarks.run` keeps all of them.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import typer

_SECTION = re.compile(r"<!-- begin ([a-z0-9-]+) -->\n.*?<!-- end \1 -->\n", re.DOTALL)


def replace_section(page: Path, name: str, text: str) -> None:
    """Write a section into a page, in its old place or at the end."""
    new = f"<!-- begin {name} -->\n{text.strip()}\n<!-- end {name} -->\n"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    found = [match[0] for match in _SECTION.finditer(old) if match[1] == name]
    whole = old.replace(found[0], new) if found else f"{old.rstrip()}\n\n{new}".lstrip()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(whole, encoding="utf-8")


def keep_sections(page: Path, text: str) -> str:
    """Return a new text of a page with the sections of the old one behind it."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    return "\n".join([f"{text.rstrip()}\n", *(match[0] for match in _SECTION.finditer(old))])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goal_row(what: str, value: str, goal: str, is_met: bool | None) -> list[str]:  # noqa: FBT001 - a cell
    """Return a row of `GOAL_HEAD`; `is_met` None: the figure has no goal."""
    result = "" if is_met is None else "met" if is_met else "**MISSED**"
    return [what, value, goal, result]


GOAL_HEAD = ("what", "value", "goal", "result")


@dataclass(frozen=True)
class MeasuredSection:
    """What one program measured in one table.

    Args:
        name: of the section; the program is `benchmarks.NAME`, with underscores.
        introduction: what ran, line by line.
        load_before: average load of the machine before it began.
    """

    name: str
    title: str
    introduction: Sequence[str]
    rows: Sequence[Sequence[str]]
    load_before: float
    head: Sequence[str] = GOAL_HEAD

    def text(self) -> str:
        """Return the section: title, introduction, when and how it was measured, table."""
        module = f"benchmarks.{self.name.replace('-', '_')}"
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        lines = [
            f"## {self.title}",
            "",
            *self.introduction,
            "",
            f"* {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`; load average before:"
            f" {self.load_before:.1f}, on {psutil.cpu_count()} cores that other programs share.",
            "",
            table(self.head, self.rows),
        ]
        return "\n".join(lines)

    def publish(self, out: Path | None) -> None:
        """Print the section, and write it into a page where one is named."""
        text = self.text()
        typer.echo(text)
        if out is not None:
            replace_section(out, self.name, text)
