"""The report of a VQA run: its metrics, published figures beside them, and its questions.

What does *not* live here: the page (`report_page.py`), scores (`scoring.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmarks import BENCHMARKS, other_than_published
from evaluation.report_page import (
    MOST_IMAGES,
    Bar,
    Filter,
    filters_of,
    plot_of,
    published_figures,
    thumbnail,
    write_page,
)
from evaluation.scoring import HEADLINES, Verdict, image_of
from evaluation.tables import kind_rows, metric_rows
from evaluation.uncertainty import Estimate

_COMPARED = ("legacy-v1/open recall", "legacy-v1/closed accuracy (run_eval_batch)")


@dataclass(frozen=True, slots=True)
class Figures:
    """Published ones of a benchmark, or a run's own: a row of a table.

    Args:
        epochs: of fine-tuning on the benchmark; "?": not known.
        is_own: it is the run's.
    """

    model: str
    epochs: str
    open: str
    closed: str
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class _Published:
    """LLaVA-Med's tables, this run's row first.

    Args:
        other: how the run's questions differ from the published split's; None: in nothing counted.
    """

    rows: Sequence[Figures]
    ablation: Sequence[Figures]
    literature: Sequence[Figures]
    source: str
    notes: Sequence[str]
    literature_notes: Sequence[str]
    other: str | None


@dataclass(frozen=True, slots=True)
class _ShownImage:
    name: str
    url: str | None
    items: Sequence[Mapping[str, Any]]


def write_report(
    file: Path, receipt: Mapping[str, Any], verdicts: Sequence[Verdict], images: Path | None
) -> None:
    """Write the report of a run.

    Args:
        images: folder of the questions' images; None: the report shows none.
    """
    filters = filters_of(_label(verdict) for verdict in verdicts)
    shown, num_left_out = _images(verdicts, images, filters)
    estimates = {name: Estimate(**value) for name, value in receipt["metrics"].items()}
    write_page(
        file,
        "report.html.j2",
        receipt,
        plot=plot_of([_bar(name, value) for name, value in estimates.items()]),
        metrics=metric_rows(estimates),
        kinds=kind_rows(verdicts),
        published=_published(receipt, verdicts),
        filters=filters,
        images=shown,
        num_left_out=num_left_out,
    )


def _bar(name: str, value: Estimate) -> Bar:
    return Bar(name, name.partition("/")[0], 100 * value.mean, 100 * value.low, 100 * value.high)


def _published(receipt: Mapping[str, Any], verdicts: Sequence[Verdict]) -> _Published | None:
    """Return the run's two figures and others' of the same benchmark; None: there are none."""
    name, _, split = str(receipt["benchmark"]).partition("/")
    column = BENCHMARKS[name].column if name in BENCHMARKS else None
    if column is None or split != "test":
        return None
    found = published_figures()
    metrics = receipt["metrics"]
    ours = [f"{100 * metrics[m]['mean']:.2f}" if m in metrics else "-" for m in _COMPARED]
    own = Figures(f"this run: {receipt['model']}", "?", *ours, is_own=True)
    tables = {key: _figures(found[key], column) for key in ("fine_tuned", "ablation", "literature")}
    return _Published(
        rows=[own, *tables["fine_tuned"]],
        ablation=tables["ablation"],
        literature=tables["literature"],
        source=found["source"],
        notes=found["fine_tuned_notes"],
        literature_notes=found["literature_notes"],
        other=other_than_published(BENCHMARKS[name], split, [v.item for v in verdicts]),
    )


def _figures(lines: Sequence[Mapping[str, Any]], column: str) -> list[Figures]:
    return [
        Figures(
            line["model"],
            str(line.get("fine_tuning_epochs", "?")),
            f"{line['scores'][column]['open']:.2f}",
            f"{line['scores'][column]['closed']:.2f}",
        )
        for line in lines
        if column in line["scores"]
    ]


def _images(
    verdicts: Sequence[Verdict], folder: Path | None, filters: Sequence[Filter]
) -> tuple[list[_ShownImage], int]:
    """Return the first images with their questions, and how many more there are."""
    together: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        together.setdefault(image_of(verdict.item), []).append(verdict)
    classes = {each.label: each.css for each in filters}
    names = list(together)
    shown = [
        _ShownImage(
            name,
            thumbnail(folder, together[name][0].item.image),
            [_line(verdict, classes) for verdict in together[name]],
        )
        for name in names[:MOST_IMAGES]
    ]
    return shown, len(names) - len(shown)


def _line(verdict: Verdict, classes: Mapping[str, str]) -> Mapping[str, Any]:
    value = verdict.values[HEADLINES[verdict.item.is_closed]]
    is_right = value == 1
    return {
        "id": verdict.item.id,
        "question": verdict.item.question,
        "reference": verdict.item.reference,
        "said": verdict.said,
        "verdict": "right" if is_right else "wrong",
        "css": f"{'is-right' if is_right else 'is-wrong'} {classes.get(_label(verdict), '')}",
        "shown": f"{value:.0%}",
    }


def _label(verdict: Verdict) -> str:
    item = verdict.item
    return f"{'closed' if item.is_closed else 'open'} {item.kind}".strip()
