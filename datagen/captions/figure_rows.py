"""A row as a record of LLaVA-Med's captions' file (docs/llava-med.md).

What does *not* live here: images (`pictures.py`), files (`writing.py`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from datagen.captions.columns import Columns
from datagen.captions.embedded import Embedded
from datagen.captions.medical import Picture
from datagen.errors import DataError
from datagen.figures import DOMAINS, domains_of, is_safe_name, mentions_of

_SEPARATORS = re.compile(r"[;,|/]")
_OTHER_NAMES = {
    "ct": "ct_scan",
    "computed_tomography": "ct_scan",
    "mr": "mri",
    "mr_imaging": "mri",
    "magnetic_resonance_imaging": "mri",
    "cxr": "chest_xray",
    "chest_x_ray": "chest_xray",
    "chest_radiograph": "chest_xray",
    "histopathology": "histology",
    "microscopy": "histology",
    "gross_pathology": "gross",
}
_LONE_SURROGATES = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Domains:
    """Domains that a cell names.

    Args:
        has_unknown: it names others, too.
    """

    names: tuple[str, ...]
    has_unknown: bool


def text_of(values: Mapping[str, object], column: str | None) -> str:
    """Return a cell's text; empty where there is none, or something else."""
    value = None if column is None else values.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _LONE_SURROGATES.sub("\ufffd", value).strip() if isinstance(value, str) else ""


def caption_of(values: Mapping[str, object], columns: Columns) -> str:
    """Return the caption; raises DataError where there is none."""
    value = values.get(columns.caption)
    if not isinstance(value, str) or not (caption := text_of(values, columns.caption)):
        raise DataError("no caption")
    return caption


def image_of(values: Mapping[str, object], columns: Columns) -> str | Embedded:
    """Return what the row names as its image, or holds; raises DataError where that is neither.

    Hugging Face's data sets hold `bytes` and `path`; of images that are files, the path alone.
    """
    value, path = values.get(columns.image), ""
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        named = parts.get("path")
        path = named if isinstance(named, str) else ""
        value = path if parts.get("bytes") is None else parts["bytes"]
    if value is None or value == "":
        raise DataError("no image named")
    if isinstance(value, bytes):
        return Embedded(value, path)
    if not isinstance(value, str):
        raise DataError("image is neither a file's name nor an image")
    return value


def domains_in(values: Mapping[str, object], column: str | None) -> Domains:
    """Return a row's domains: an object of flags, a list, or names with separators."""
    value = None if column is None else values.get(column)
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = _as_json(value)
    if isinstance(value, Mapping):
        flags = cast("Mapping[str, object]", value)
        return Domains(domains_of(flags), any(flags[name] for name in flags.keys() - set(DOMAINS)))
    if isinstance(value, str):
        value = [part for part in _SEPARATORS.split(value) if part.strip()]
    if not isinstance(value, list):
        return Domains((), has_unknown=False)
    plain = [_plain(str(part)) for part in cast("list[object]", value)]
    known = {_OTHER_NAMES.get(name, name) for name in plain}
    return Domains(
        tuple(name for name in DOMAINS if name in known), bool(known - set(DOMAINS) - {""})
    )


def mentions_in(values: Mapping[str, object], column: str | None) -> list[str]:
    """Return sentences: a list, a list in JSON, or one text."""
    value = None if column is None else values.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _as_json(value) or value
    if isinstance(value, str):
        value = [value]
    return [_LONE_SURROGATES.sub("\ufffd", sentence) for sentence in mentions_of(value)]


def id_of(values: Mapping[str, object], column: str | None) -> str | None:
    """Return the row's own name; None: it has none. Raises DataError where it is no safe one."""
    name = text_of(values, column)
    if not name:
        return None
    if not is_safe_name(name):
        raise DataError("id is no name of a file")
    return name


def frame_of(values: Mapping[str, object], column: str | None) -> int | None:
    """Return the frame of a DICOM or NIfTI file, from 1; None: the row names none.

    Raises:
        DataError: it is no such number.
    """
    text = text_of(values, column)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 9 or int(text) == 0:
        raise DataError("frame is no number from 1")
    return int(text)


def record_of(
    name: str, image: Picture, caption: str, values: Mapping[str, object], columns: Columns
) -> dict[str, object]:
    """Return the record."""
    domains = domains_in(values, columns.domain).names
    return {
        "pair_id": name,
        "image": image.name,
        "fig_label": text_of(values, columns.label),
        "fig_caption": caption,
        "in_text_mention": mentions_in(values, columns.mention) or None,
        "domain": {domain: domain in domains for domain in DOMAINS},
        "licence": text_of(values, columns.licence),
        **({} if image.preprocess is None else {"preprocess": image.preprocess}),
    }


def _as_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
