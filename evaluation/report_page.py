"""What all HTML reports share: the page, a plot of intervals, small images, filters.

A page holds all that it shows and loads nothing; what models answered is text and stays text
(Jinja's autoescape, and a policy that forbids scripts). What does *not* live here: what a kind of
run shows (`html_report.py`, `judging/report.py`).
"""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.item_images import open_image
from evaluation.model_facts import all_facts

MOST_IMAGES = 400
"""In one page; each has about 5 kB."""
_FOLDER = Path(__file__).parent
_PUBLISHED = _FOLDER / "published" / "llava_med_v1.json"
_THUMBNAIL_PX = 176
_TICKS = 5
_MOST_FILTERS = 24
_SHOWN_FACTS = (
    "benchmark", "items_sha256", "images_sha256", "answers_sha256", "model", "judge", "prompt",
    "prompt_sha256", "judge_decoding", "spent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a plot, in percent.

    Args:
        low: of the interval, with `high`.
    """

    name: str
    version: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars with their intervals.

    Args:
        most: at the right end of the axis, percent.
    """

    bars: Sequence[Bar]
    most: float

    @property
    def ticks(self) -> list[float]:
        """Marks of the axis."""
        return [self.most * number / (_TICKS - 1) for number in range(_TICKS)]


def plot_of(bars: Sequence[Bar]) -> Plot:
    """Return a plot whose axis ends at 100 %, or at the next hundred above all intervals."""
    highest = max((bar.high for bar in bars), default=0.0)
    return Plot(bars, max(100.0, 100.0 * math.ceil(highest / 100)))


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice of items that a reader can make.

    Args:
        css: class of its items; a name of ours, whatever the label is.
    """

    css: str
    label: str
    num: int


def filters_of(labels: Iterable[str]) -> list[Filter]:
    """Return a filter for each of the most frequent labels, in alphabetical order."""
    counts = Counter(labels).most_common(_MOST_FILTERS)
    return [Filter(f"kind-{i}", name, num) for i, (name, num) in enumerate(sorted(counts))]


def write_page(file: Path, template: str, receipt: Mapping[str, Any], **context: object) -> None:
    """Write a page.

    Args:
        template: its name in `templates`.
        context: what it shows beside the receipt.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    text = page.render(receipt=receipt, facts=_facts(receipt), **context)
    file.write_text(text, encoding="utf-8", errors="replace")


def published_figures() -> dict[str, Any]:
    """Return LLaVA-Med's tables."""
    return json.loads(_PUBLISHED.read_text("utf-8"))


def thumbnail(folder: Path | None, name: str | None) -> str | None:
    """Return a small JPEG as a data URL; None: there is none, or it cannot be read."""
    if folder is None or name is None:
        return None
    try:
        rgb = open_image(folder, name)
    except EvaluationError:
        return None
    rgb.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    rgb.save(jpeg, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode('ascii')}"


def _facts(receipt: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = {name: receipt[name] for name in _SHOWN_FACTS if name in receipt}
    found |= all_facts(receipt.get("model_as_told", {}))
    found |= {f"our {name}": number for name, number in receipt.get("versions", {}).items()}
    found |= {f"images, {place}": ways for place, ways in receipt.get("preprocessing", {}).items()}
    return [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in found.items()
    ]
