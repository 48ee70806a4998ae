"""The page with all drawings, and the items that a reader may look at with their images.

One file that loads nothing and runs nothing; what models wrote is text and stays text (Jinja's
autoescape, and a policy that forbids scripts). What does *not* live here: counting (`counting.py`).
"""

import base64
import io
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from datagen.figures import is_safe_name
from datagen.stats.counting import LABELS, NO_DOMAIN, Tally
from datagen.stats.items import Item
from modeling.image_processing import normalise_to_rgb

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL_PX = 240
_MOST_BYTES = 64 << 20
_MOST_PIXELS = 100_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True, slots=True)
class Sample:
    """An item as it is shown.

    Args:
        css: classes for the choice of a domain; names of ours.
        url: a small image as a data URL; None: there is none.
        why: there is none, although the item names one.
    """

    item: Item
    css: str
    url: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A domain that a reader may choose."""

    css: str
    label: str
    num: int


def samples_of(tally: Tally, images: Path | None) -> list[Sample]:
    """Return the kept items with their images from a folder."""
    return [_sample(item, images) for item in tally.samples]


def choices_of(samples: Sequence[Sample]) -> list[Choice]:
    """Return a choice for each domain that a shown item has; none where there is nothing to choose.

    Those with no domain count as one of their own.
    """
    numbers: dict[str, int] = {}
    for sample in samples:
        for name in sample.item.domains or (NO_DOMAIN,):
            numbers[name] = numbers.get(name, 0) + 1
    if len(numbers) < 2:
        return []
    return [Choice(_css(name), LABELS.get(name, name), num) for name, num in numbers.items()]


def write_page(
    file: Path, samples: Sequence[Sample], drawings: Mapping[str, Path], **context: object
) -> None:
    """Write the page.

    Args:
        drawings: PNG files, which the page holds as data URLs.
        context: what the template shows beside them.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("stats.html.j2").render(
        samples=samples,
        choices=choices_of(samples),
        labels=LABELS,
        drawings={name: _data_url("png", png.read_bytes()) for name, png in drawings.items()},
        **context,
    )
    file.write_text(text, encoding="utf-8", errors="replace")


def _sample(item: Item, images: Path | None) -> Sample:
    css = " ".join(_css(name) for name in item.domains or (NO_DOMAIN,))
    if item.image is None:
        return Sample(item, css, None, "")
    if images is None:
        return Sample(item, css, None, "images were not asked for (--images)")
    try:
        return Sample(item, css, _thumbnail(images, item.image), "")
    except _NoImageError as error:
        return Sample(item, css, None, str(error))


class _NoImageError(Exception):
    """Why an image is not shown."""


def _thumbnail(folder: Path, name: str) -> str:
    """Return a small JPEG of a file in a folder, as a data URL; raises _NoImageError."""
    if not is_safe_name(name):
        raise _NoImageError("its name is not one of a file in the folder")
    try:
        path = (folder / name).resolve(strict=True)
        facts = path.stat()
        if not path.is_relative_to(folder.resolve()) or not stat.S_ISREG(facts.st_mode):
            raise _NoImageError("it is no file in the folder")
        if facts.st_size > _MOST_BYTES:
            raise _NoImageError("its file is too large")
    except OSError as error:
        raise _NoImageError("no such file") from error
    try:
        rgb = _small_pixels(path)
    except Exception as error:  # a decoder may raise anything
        raise _NoImageError("it cannot be read as an image") from error
    if rgb is None:
        raise _NoImageError("it has too many pixels")
    rgb.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    rgb.save(jpeg, "JPEG", quality=82)
    return _data_url("jpeg", jpeg.getvalue())


def _small_pixels(path: Path) -> Image.Image | None:
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            return None
        image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
        return normalise_to_rgb(image)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _css(domain: str) -> str:
    return f"of-{domain.replace('_', '-').replace(' ', '-')}"
