"""A run's questions as CSV.

What does *not* live here: what the columns hold (`remaking.py`), what no spreadsheet may run
(`modeling/csv_cells.py`).
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from modeling.csv_cells import inert


def write_csv(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the columns of the first one that has each; texts are texts in any case."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", encoding="utf-8", errors="replace", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(map(inert, columns))
        writer.writerows([inert(row.get(name)) for name in columns] for row in rows)
