"""What others read of a download: a line for each image, a line for each problem, the counts.

What does *not* live here: the truth for going on (`index.py`).
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.download import reasons
from datagen.download.index import Counts, Index, Row
from modeling.durable_files import unfinished_of, write_json

MANIFEST_FILE = "manifest.jsonl"
PROBLEMS_FILE = "problems.jsonl"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a folder.

    Args:
        reasons: of all images that are not done.
        problems: lines of the list by what is wrong with them.
    """

    counts: Counts
    reasons: Mapping[str, int]
    problems: Mapping[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether every image of this call is there, and every line was one."""
        is_whole_list = not self.problems.keys() - {"repeated line"}
        return is_whole_list and not self.counts.waiting and not self.counts.lacking


def write_reports(index: Index, folder: Path, facts: Mapping[str, Any]) -> Summary:
    """Write the three files, each whole or not at all, and return the counts.

    Args:
        facts: what else belongs into the summary.
    """
    _write_lines(folder / MANIFEST_FILE, (_line(row) for row in index.outcomes()))
    problems = ({"line": each.number, "problem": each.kind} for each in index.problems())
    _write_lines(folder / PROBLEMS_FILE, problems)
    summary = Summary(index.counts(), index.reason_counts(), index.problem_counts())
    counts = summary.counts
    missing = sum(
        num for reason, num in summary.reasons.items() if reasons.status_of(reason) == "missing"
    )
    content = {
        **facts,
        "selected": counts.selected,
        "waiting": counts.waiting,
        "done": counts.done,
        "missing": missing,
        "failed": sum(summary.reasons.values()) - missing,
        "bytes": counts.saved_bytes,
        "reasons": summary.reasons,
        "problems": summary.problems,
    }
    write_json(folder / SUMMARY_FILE, content)
    return summary


def _line(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {
        "pair_id": row.pair_id,
        "line": row.number,
        "status": "done" if row.reason is None else reasons.status_of(row.reason),
        "url": row.url,
    }
    if row.reason is not None:
        return {**line, "reason": row.reason}
    return {
        **line,
        "file": row.file,
        "format": row.format,
        "width": row.width,
        "height": row.height,
        "bytes": row.size_bytes,
        "sha256": row.sha256,
    }


def _write_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    unfinished = unfinished_of(file)
    with unfinished.open("w", encoding="utf-8") as stream:
        for line in lines:
            stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
