"""The counts of an audit, kept in a file so that a restart does not tokenise again.

Arrays of numbers in NumPy's format, nothing that could run code. What does *not* live here: when
they still hold (`audit.py`).
"""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import cast

import numpy as np

from training.audit_pass import NUM_COLUMNS, Counts
from training.problems import PROBLEM_KINDS


def write_counts(path: Path, counts: Counts) -> None:
    """Write counts, all of them or nothing."""
    numbers: dict[str, int] = {}  # of reasons: most problems share a few
    rows = [
        (PROBLEM_KINDS.index(kind), record, numbers.setdefault(reason, len(numbers)))
        for kind, record, reason in counts.problems
    ]
    reasons = np.frombuffer(json.dumps(list(numbers)).encode(), np.uint8)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        partial = Path(file.name)
        try:
            np.savez(
                file,
                columns=counts.columns,
                problems=np.array(rows, np.int64).reshape(-1, 3),
                reasons=reasons,
            )
            file.close()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_counts(path: Path) -> Counts | None:
    """Return what `write_counts` wrote; None where there is no such file, or a damaged one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns, rows = arrays["columns"], arrays["problems"]
            reasons = cast("list[str]", json.loads(arrays["reasons"].tobytes()))
        problems = [(PROBLEM_KINDS[kind], record, reasons[n]) for kind, record, n in rows.tolist()]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None
    return Counts(columns, problems) if columns.shape[1:] == (NUM_COLUMNS,) else None
