"""A run's questions as CSV, for a spreadsheet that must run nothing of it.

What does *not* live here: what the columns hold (`remaking.py`).
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell begins with that spreadsheets take for a formula, or leave out before one
(OWASP, "CSV Injection")."""


def write_csv(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the columns of the first one that has each; texts are texts in any case."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", encoding="utf-8", errors="replace", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(map(inert, columns))
        writer.writerows([inert(row.get(name)) for name in columns] for row in rows)


def inert(value: object) -> object:
    """Return a cell; a text that a spreadsheet would compute gets an apostrophe before it."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
