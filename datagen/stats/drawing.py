"""The drawings of a data page: sunbursts of roots, bars of domains, histograms.

A verb has one colour in both sunbursts, and a side of conversations one colour everywhere. What
does *not* live here: numbers (`counting.py`), the page (`page.py`).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from datagen.stats.counting import LABELS, Histogram, VerbShare

_mpl: Any = mpl  # its own types have gaps
_Figure: Any = Figure
NUM_VERBS = 20
NUM_NOUNS = 4
QUESTION_COLOUR = "#3b6fb6"
ANSWER_COLOUR = "#d1772e"
_QUIET = "#59636e"
_INK = "#1f2328"
_HOLE, _INNER, _OUTER = 0.2, 0.55, 1.0
_SUNBURST_IN = 6.6
_AXES_IN = _SUNBURST_IN * 0.49  # of the outer radius
_MOST_LETTERS = 18
_LETTER_WIDTH, _LINE_HEIGHT = 0.6, 1.15  # of the size in points, this font
_LEAST_POINTS = 6.5
_POINTS_PER_INCH = 72
_STYLE: dict[str, Any] = {  # matplotlib's own settings are of many types
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same drawing everywhere
    "text.color": _INK,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "savefig.dpi": 144,
    "savefig.facecolor": "white",
}
Colour = tuple[float, float, float]


class _Wedge(NamedTuple):
    """A part of a ring; `at` and `width` are shares of the whole turn, from the top, clockwise."""

    at: float
    width: float
    ring: tuple[float, float]
    colour: Colour


def colours_of(verbs: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for each verb: the most frequent ones get those that differ most."""
    table = colormaps["tab20"]
    order = [*range(0, 20, 2), *range(1, 20, 2)]  # ten strong ones, then their lighter kin
    unique = dict.fromkeys(verbs)
    return {verb: to_rgb(table(order[i % len(order)])) for i, verb in enumerate(unique)}


def draw_sunburst(
    file: Path, title: str, roots: Sequence[VerbShare], colours: dict[str, Colour]
) -> None:
    """Draw verbs (inner ring), each with its nouns (outer ring; paler and unlabelled: others)."""
    with _mpl.rc_context(_STYLE):
        figure = _Figure(figsize=(_SUNBURST_IN, _SUNBURST_IN))
        axes: Any = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        axes.axis("off")
        total = sum(root.number for root in roots)
        shown = f"{title}\n{total:,}" if total else f"{title}\nno verb found"
        axes.text(0, 0, shown, ha="center", va="center", fontsize=11, linespacing=1.5)
        at = 0.0
        for root in roots:
            width = root.number / total
            _draw_verb(axes, root, at, width, colours[root.verb])
            at += width
        figure.savefig(file, metadata={"Software": None})


def draw_domains(file: Path, counts: Sequence[tuple[str, int]]) -> None:
    """Draw a bar for each domain."""
    total = max(1, sum(number for _, number in counts))
    with _mpl.rc_context(_STYLE):
        figure = _Figure(figsize=(7.2, 3.0), layout="constrained")
        axes: Any = figure.subplots()
        names = [LABELS.get(name, name) for name, _ in counts]
        numbers = [number for _, number in counts]
        bars = axes.barh(names, numbers, color=QUESTION_COLOUR, height=0.66)
        labels = [f"{number:,}  ({100 * number / total:.1f} %)" for number in numbers]
        axes.bar_label(bars, labels, padding=4, fontsize=9, color=_INK)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1, *numbers) * 1.24)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.set_xlabel("conversations")
        figure.savefig(file, metadata={"Software": None})


def draw_rounds(file: Path, rounds: Histogram) -> None:
    """Draw how many conversations have how many rounds."""
    with _mpl.rc_context(_STYLE):
        figure = _Figure(figsize=(7.2, 3.0), layout="constrained")
        axes: Any = figure.subplots()
        last = max(rounds.counts, default=1)
        places = list(range(min(1, *rounds.counts, 1), max(last, 5) + 1))
        heights = [rounds.counts.get(place, 0) for place in places]
        bars = axes.bar(places, heights, color=ANSWER_COLOUR, width=0.74)
        if len(places) <= 12:
            labels = [f"{number:,}" if number else "" for number in heights]
            axes.bar_label(bars, labels, padding=2, fontsize=9, color=_INK)
        is_capped = last == rounds.cap
        axes.set_xticks(places, [f"{p}+" if is_capped and p == last else str(p) for p in places])
        axes.set(xlabel="rounds in a conversation", ylabel="conversations")
        axes.set_ylim(0, max(1, *heights) * 1.12)
        _count_axis(axes)
        figure.savefig(file, metadata={"Software": None})


def draw_lengths(file: Path, questions: Histogram, answers: Histogram) -> None:
    """Draw how long questions and answers are, in words, each with its median."""
    with _mpl.rc_context(_STYLE):
        figure = _Figure(figsize=(7.2, 3.2), layout="constrained")
        both: Any = figure.subplots(1, 2)
        sides = (("questions", questions, QUESTION_COLOUR), ("answers", answers, ANSWER_COLOUR))
        for axes, (name, lengths, colour) in zip(both, sides, strict=True):
            last = max(10, lengths.quantile(0.995))
            step = max(1, math.ceil(last / 40))
            heights = [0] * (last // step + 1)
            for value, number in lengths.counts.items():
                heights[min(value, last) // step] += number
            places = [step * (number + 0.5) - 0.5 for number in range(len(heights))]
            axes.bar(places, heights, width=step * 0.94, color=colour)
            median = lengths.quantile(0.5)
            axes.axvline(median, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"{name}: median {median}, mean {lengths.mean:.1f}", fontsize=10)
            beyond = f" (the last bar: {last} and more)" if lengths.most > last else ""
            axes.set(xlabel=f"words{beyond}", xlim=(-1, last + step))
            axes.set_ylim(0, max(1, *heights) * 1.08)
            _count_axis(axes)
        figure.savefig(file, metadata={"Software": None})


def _draw_verb(axes: Axes, root: VerbShare, at: float, width: float, colour: Colour) -> None:
    """Draw one verb's part of the rings, which begins at a share of the whole turn."""
    wedge = _Wedge(at, width, (_HOLE, _INNER), colour)
    _draw_wedge(axes, wedge)
    _write(axes, root.verb, wedge, 12)
    per_one = width / root.number
    for index, (noun, number) in enumerate(root.nouns):
        share = number * per_one
        paler = _paler(colour, 0.42 + 0.1 * index)
        wedge = _Wedge(at, share, (_INNER, _OUTER - 0.02), paler)
        _draw_wedge(axes, wedge)
        _write(axes, noun, wedge, 11)
        at += share
    others = root.number - sum(number for _, number in root.nouns)
    if others > 0:
        rim = (_INNER, _INNER + 0.06)
        _draw_wedge(axes, _Wedge(at, others * per_one, rim, _paler(colour, 0.82)))


def _draw_wedge(axes: Axes, wedge: _Wedge) -> None:
    at, width, (inner, outer), colour = wedge
    start, end = 90 - 360 * (at + width), 90 - 360 * at  # clockwise, from the top
    edge = "none" if width > 0.999 else "white"
    axes.add_patch(
        Wedge(
            (0, 0),
            outer,
            start,
            end,
            width=outer - inner,
            facecolor=colour,
            edgecolor=edge,
            linewidth=0.8,
        )
    )


def _write(axes: Axes, text: str, wedge: _Wedge, most_points: float) -> None:
    """Write along the radius, upright on both sides; nothing where it would not fit."""
    at, width, _, colour = wedge
    shown = text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}\u2026"
    points, radius = _fit(len(shown), wedge, most_points)
    if points < _LEAST_POINTS:
        return
    turn = 360 * (at + width / 2)
    angle = math.radians(90 - turn)
    surface: Any = axes
    surface.text(
        radius * math.cos(angle),
        radius * math.sin(angle),
        shown,
        rotation=90 - turn if turn <= 180 else 270 - turn,
        rotation_mode="anchor",
        ha="center",
        va="center",
        fontsize=points,
        color="white" if _is_dark(colour) else _INK,
    )


def _fit(num_letters: int, wedge: _Wedge, most_points: float) -> tuple[float, float]:
    """Return the largest size in points at which a text fits, and the radius of its middle.

    In the middle of its ring, or, where that is too narrow, at its outer edge. 0: it fits nowhere.
    """
    inner, outer = wedge.ring
    points = most_points
    while points >= _LEAST_POINTS:
        length = _LETTER_WIDTH * num_letters * points / _POINTS_PER_INCH / _AXES_IN
        height = _LINE_HEIGHT * points / _POINTS_PER_INCH / _AXES_IN
        for middle in ((inner + outer) / 2, outer - 0.025 - length / 2):
            begin = middle - length / 2
            if begin >= inner + 0.01 and 2 * math.pi * wedge.width * begin >= height:
                return points, middle
        points -= 0.5
    return 0.0, 0.0


def _is_dark(colour: Colour) -> bool:
    red, green, blue = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def _paler(colour: Colour, share: float) -> Colour:
    red, green, blue = (part + (1 - part) * min(share, 0.9) for part in colour)
    return red, green, blue


def _count_axis(axes: Axes) -> None:
    axis: Any = axes.yaxis
    axis.set_major_formatter("{x:,.0f}")
    axis.get_major_locator().set_params(integer=True, nbins=6)
