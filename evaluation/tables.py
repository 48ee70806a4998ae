"""Scores as tables for a terminal and for Markdown.

What does *not* live here: HTML (`html_report.py`).
"""

from collections.abc import Mapping, Sequence

from evaluation.scoring import HEADLINES, Verdict, estimates_of
from evaluation.uncertainty import Difference, Estimate


def metric_rows(estimates: Mapping[str, Estimate]) -> list[list[str]]:
    """Return rows of metric, version, percent with interval, number of questions."""
    return [[*_split(name), *_cells(value)] for name, value in estimates.items()]


def kind_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return rows for each type of question: open recall or closed accuracy of `standard-v1`."""
    kinds = sorted({(verdict.item.is_closed, verdict.item.kind) for verdict in verdicts})
    rows: list[list[str]] = []
    for is_closed, kind in kinds:
        of_kind = [v for v in verdicts if (v.item.is_closed, v.item.kind) == (is_closed, kind)]
        value = estimates_of(of_kind)[HEADLINES[is_closed]]
        rows.append(["CLOSED" if is_closed else "OPEN", kind or "-", *_cells(value)])
    return rows


def difference_rows(differences: Mapping[str, Difference]) -> list[list[str]]:
    """Return rows of metric, version, difference in points with interval, p-value, number."""
    return [
        [
            *_split(name),
            f"{100 * value.mean:+.1f}",
            f"{100 * value.low:+.1f} to {100 * value.high:+.1f}",
            f"{value.p_value:.4f}",
            str(value.num),
        ]
        for name, value in differences.items()
    ]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of columns as wide as their widest cell."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:]))


def _split(name: str) -> tuple[str, str]:
    version, _, metric = name.partition("/")
    return metric, version


def _cells(value: Estimate) -> list[str]:
    interval = f"{100 * value.low:.1f} to {100 * value.high:.1f}"
    return [f"{100 * value.mean:.2f}", interval, str(value.num)]
