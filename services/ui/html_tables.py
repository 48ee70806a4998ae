"""Tables and plots as HTML that screen readers can read; every text is escaped. Pure.

What does *not* live here: what they show (`receipts.py`, `evaluation_words.py`).
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEFT_PX, _BAR_PX, _VALUE_PX = 16, 330, 74
_BAR_HEIGHT_PX, _LABEL_HEIGHT_PX = 14, 24
_TICKS = (0, 25, 50, 75, 100)


@dataclass(frozen=True, slots=True)
class Series:
    """Scores of one run.

    Args:
        metrics: `mean`, `low` and `high` from 0 to 1, by the metric's name.
    """

    name: str
    metrics: Mapping[str, Mapping[str, Any]]


def html_table(
    caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]], empty: str = ""
) -> str:
    """Return a table whose first column names its rows.

    Args:
        empty: what is said where there are no rows; "": nothing, not even the caption.
    """
    lines = [_row(cells) for cells in rows]
    name = html.escape(caption)
    if not lines and not empty:
        return ""
    if not lines:
        return f"<h2>{name}</h2><p>{html.escape(empty)}</p>"
    heads = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    # a wide table scrolls by itself, also by the keyboard, and the page does not
    return (
        f'<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>'
        f"<caption>{name}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def warning(title: str, reasons: Sequence[str]) -> str:
    """Return what a reader must not pass over."""
    said = "".join(f"<li>{html.escape(reason)}</li>" for reason in reasons)
    return (
        f'<div class="problem" role="alert"><strong>{html.escape(title)}</strong><ul>{said}</ul>'
        "</div>"
    )


def interval_plot(title: str, runs: Sequence[Series]) -> str:
    """Return bars with their 95 % intervals as an inline SVG; each metric of each run is a bar."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if not names:
        return ""
    group_px = len(runs) * _BAR_HEIGHT_PX + _LABEL_HEIGHT_PX
    height = len(names) * group_px
    parts = [_axis(height)]
    for number, name in enumerate(names):
        parts.append(_metric(name, runs, number * group_px + _LABEL_HEIGHT_PX))
    shown = html.escape(title)
    width = _LEFT_PX + _BAR_PX + _VALUE_PX
    return (
        f'<figure class="wide plot" tabindex="0" role="group" aria-label="{shown}">'
        f'<svg viewBox="0 0 {width} {height + 24}" role="img" aria-label="{shown}">'
        f"<title>{shown}</title>{''.join(parts)}</svg>{_legend(runs)}</figure>"
    )


def _axis(height: int) -> str:
    marks = ""
    for tick in _TICKS:
        x = _x(tick / 100)
        marks += (
            f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{height}"/>'
            f'<text x="{x}" y="{height + 17}" text-anchor="middle">{tick} %</text>'
        )
    return marks


def _metric(name: str, runs: Sequence[Series], top: int) -> str:
    parts = [f'<text x="{_LEFT_PX}" y="{top - 5}">{html.escape(name)}</text>']
    for number, run in enumerate(runs):
        value = run.metrics.get(name)
        if value is None:
            continue
        y, middle = top + number * _BAR_HEIGHT_PX, top + (number + 0.5) * _BAR_HEIGHT_PX
        low, high = _x(value["low"]), _x(value["high"])
        width = round(_BAR_PX * _share(value["mean"]), 1)
        told = f"{run.name}, {name}: {percent(value)}"
        parts.append(
            f"<g><title>{html.escape(told)}</title>"
            f'<rect class="run-{number}" x="{_LEFT_PX}" y="{y + 1}" width="{width}" '
            f'height="{_BAR_HEIGHT_PX - 2}"/>'
            f'<line class="interval" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
            f'<line class="interval" x1="{low}" x2="{low}" y1="{y + 3}" y2="{y + 11}"/>'
            f'<line class="interval" x1="{high}" x2="{high}" y1="{y + 3}" y2="{y + 11}"/>'
            f'<text x="{_LEFT_PX + _BAR_PX + 12}" y="{y + 11}">{100 * value["mean"]:.1f} %</text>'
            "</g>"
        )
    return "".join(parts)


def _legend(runs: Sequence[Series]) -> str:
    if len(runs) < 2:
        return ""
    said = "".join(
        f'<span><span class="key run-{number}" aria-hidden="true"></span>{html.escape(run.name)}'
        "</span>"
        for number, run in enumerate(runs)
    )
    return f"<figcaption>{said}</figcaption>"


def percent(value: Mapping[str, Any]) -> str:
    """Return an estimate with its interval in words."""
    return f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _x(share: float) -> float:
    return round(_LEFT_PX + _BAR_PX * _share(share), 1)


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _row(cells: Sequence[str]) -> str:
    first, *others = map(html.escape, cells)
    rest = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{rest}</tr>'
