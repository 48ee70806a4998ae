"""A figure of an article with its caption and what the article's text says of it.

The sample of LLaVA-Med's captions' file, from which conversations are made (docs/llava-med.md):
`pair_id`, `pmid`, `fig_id`, `fig_label`, `fig_caption`, `in_text_mention`, `domain`; `licence` and
`image` are ours and may be missing. What does *not* live here: reading files (`records.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from datagen.errors import DataError

DOMAINS = ("chest_xray", "mri", "histology", "gross", "ct_scan")
"""LLaVA-Med's flags, in the order in which a figure of several counts (docs/llava-med.md)."""
MOST_ID_CHARS = 200
_SAFE_NAME = re.compile(r"(?!\.)[\w.+=@ -]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        image: a file's name inside the folder of images.
        mentions: sentences of the article's text about it.
        domains: those of its flags that are true; more than one, or none, may be.
        licence: as its source names it; empty: not known.
    """

    pair_id: str
    image: str
    label: str
    caption: str
    mentions: tuple[str, ...]
    domains: tuple[str, ...]
    licence: str = ""


def figure_of(record: Mapping[str, object], group: str | None = None) -> Figure:
    """Return the figure of a record of the captions' file.

    Args:
        group: the domain under whose name it stood; counts where it has no flags.

    Raises:
        DataError: the record is none; the message quotes nothing of its text.
    """
    pair_id = record.get("pair_id")
    if not isinstance(pair_id, str) or not is_safe_name(pair_id):
        raise DataError("pair_id is no name of a file")
    caption = record.get("fig_caption")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError("no fig_caption")
    image = record.get("image", f"{pair_id}.jpg")
    if not isinstance(image, str) or not is_safe_name(image):
        raise DataError("image is no name of a file")
    label = record.get("fig_label")
    licence = record.get("licence") or record.get("license")
    return Figure(
        pair_id=pair_id,
        image=image,
        label=label if isinstance(label, str) else "",
        caption=caption,
        mentions=mentions_of(record.get("in_text_mention")),
        domains=domains_of(record.get("domain"), group),
        licence=licence if isinstance(licence, str) else "",
    )


def is_safe_name(name: str) -> bool:
    """Whether a text is one file's name in a folder: no separators, nothing hidden, no NUL."""
    return _SAFE_NAME.fullmatch(name) is not None


def domains_of(flags: object, group: str | None = None) -> tuple[str, ...]:
    """Return the domains of a record's flags (an object of booleans), or of its group's name."""
    if isinstance(flags, Mapping):
        true = {name for name, value in cast("Mapping[str, object]", flags).items() if value}
        found = tuple(name for name in DOMAINS if name in true)
        if found:
            return found
    return (group,) if group in DOMAINS else ()


def mentions_of(value: object) -> tuple[str, ...]:
    """Return the sentences of a text or a list; each is a text, or an object with `tokens`."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return ()
    found: list[str] = []
    for mention in cast("list[object]", value):
        text: object = mention
        if isinstance(mention, Mapping):
            text = cast("Mapping[str, object]", mention).get("tokens")
        if isinstance(text, list):
            text = " ".join(str(token) for token in cast("list[object]", text))
        if isinstance(text, str) and text.strip():
            found.append(text.strip())
    return tuple(found)
