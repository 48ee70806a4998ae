"""A run as one HTML file: tables, a plot, the published figures beside it, and its questions.

It holds all that it shows and loads nothing; what models answered is text and stays text (Jinja's
autoescape, and a policy that forbids scripts). What does *not* live here: scores (`scoring.py`),
published figures (`published/`).
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from evaluation.benchmarks import BENCHMARKS
from evaluation.errors import EvaluationError
from evaluation.item_images import open_image
from evaluation.scoring import Scores, Verdict, headline_value, image_of
from evaluation.tables import kind_rows, metric_rows

_PUBLISHED = Path(__file__).parent / "published" / "llava_med_v1.json"
_MOST_IMAGES = 400  # of about 5 kB each
_THUMBNAIL_PX = 176
_COLOURS = {"legacy-v1": "#8c959f", "standard-v1": "#0969da"}
_SHOWN_FACTS = ("benchmark", "items_sha256", "images_sha256", "model", "model_as_told", "versions")


@dataclass(frozen=True, slots=True)
class _ShownImage:
    name: str
    url: str | None
    items: Sequence[Mapping[str, Any]]

    @property
    def css(self) -> str:
        """Of its questions, whether all or none are right."""
        verdicts = {item["verdict"] for item in self.items}
        if verdicts == {"right"}:
            return "all-right"
        return "none-right" if "right" not in verdicts else ""


def write_report(file: Path, receipt: Mapping[str, Any], scores: Scores, images: Path) -> None:
    """Write the report of a run.

    Args:
        images: folder of the questions' images.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    shown, num_left_out = _images(scores.verdicts, images)
    rows, source = _published(receipt)
    text = environment.get_template("report.html.j2").render(
        receipt=receipt,
        bars=_bars(receipt["metrics"]),
        metrics=metric_rows(scores.estimates),
        kinds=kind_rows(scores.verdicts),
        published=rows,
        source=source,
        images=shown,
        num_left_out=num_left_out,
        facts=[(name, json.dumps(receipt[name])) for name in _SHOWN_FACTS],
    )
    file.write_text(text, encoding="utf-8", errors="replace")


def _bars(metrics: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "colour": _COLOURS[name.partition("/")[0]], **value}
        for name, value in metrics.items()
    ]


def _published(receipt: Mapping[str, Any]) -> tuple[list[list[str]], str]:
    """Return the run's two figures and others' of the same benchmark, and where these are from."""
    name, _, split = str(receipt["benchmark"]).partition("/")
    column = BENCHMARKS[name].column if name in BENCHMARKS else None
    if column is None or split != "test":
        return [], ""
    found = json.loads(_PUBLISHED.read_text("utf-8"))
    metrics = receipt["metrics"]
    ours = [
        f"{100 * metrics[metric]['mean']:.2f}" if metric in metrics else "-"
        for metric in ("legacy-v1/open recall", "legacy-v1/closed accuracy (run_eval_batch)")
    ]
    rows = [[f"this run: {receipt['model']}", "?", *ours]]
    for line in found["fine_tuned"]:
        value = line["scores"][column]
        figures = [str(value["open"]), str(value["closed"])]
        rows.append([line["model"], str(line["fine_tuning_epochs"]), *figures])
    return rows, str(found["source"])


def _images(verdicts: Sequence[Verdict], folder: Path) -> tuple[list[_ShownImage], int]:
    """Return the first images with their questions, and how many more there are."""
    together: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        together.setdefault(image_of(verdict.item), []).append(verdict)
    names = list(together)
    shown = [_shown(name, together[name], folder) for name in names[:_MOST_IMAGES]]
    return shown, len(names) - len(shown)


def _shown(name: str, verdicts: Sequence[Verdict], folder: Path) -> _ShownImage:
    items: list[Mapping[str, Any]] = []
    for verdict in verdicts:
        value = headline_value(verdict.item, verdict.said)
        items.append(
            {
                "question": verdict.item.question,
                "reference": verdict.item.reference,
                "said": verdict.said,
                "verdict": "right" if value == 1 else "wrong",
                "shown": f"{value:.0%}",
            }
        )
    image = verdicts[0].item.image
    return _ShownImage(name, None if image is None else _thumbnail(folder, image), items)


def _thumbnail(folder: Path, name: str) -> str | None:
    """Return a small JPEG as a data URL; None: it cannot be read."""
    try:
        rgb = open_image(folder, name)
    except EvaluationError:
        return None
    rgb.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    rgb.save(jpeg, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode('ascii')}"
