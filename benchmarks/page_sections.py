"""Sections of docs/benchmarks.md that are measured by programs of their own.

A section stands between two comments that name it, so that each program replaces its own and
`benchmarks.run` keeps all of them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

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
