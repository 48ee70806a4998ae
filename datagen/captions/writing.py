"""From a table and a folder of images to a file of figures, and a file of what was left out.

    OUT                     figures, JSON lines; has its name when it is whole
    OUT.problems.jsonl      rows that were left out: number, kind, image

Memory: about a hundred bytes for each row, to know what came before. What does *not* live here:
reading (`tables.py`), images (`pictures.py`).
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from datagen.captions.columns import Chooser, Columns
from datagen.captions.embedded import EmbeddedPictures
from datagen.captions.figure_rows import (
    caption_of,
    domains_in,
    id_of,
    image_of,
    record_of,
)
from datagen.captions.pictures import Pictures
from datagen.captions.tables import Row, open_table
from datagen.errors import DataError
from datagen.figures import MOST_ID_CHARS, figure_of, is_safe_name
from datagen.records import Problem
from modeling.durable_files import sync_to_disk, unfinished_of

_DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Args:
        images: folder of images; None: all are inside the table.
        placed: a folder for links to images in sub-folders, and for those inside the table; None:
            those are left out.
        columns: by part, as the user says.
        encoding: of CSV.
    """

    images: Path | None
    table: Path
    out: Path
    placed: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    encoding: str = "utf-8"
    force: bool = False


@dataclass(slots=True)
class Made:
    """What was made of a table.

    Args:
        problems: how many rows were left out, by reason.
        num_unknown_domains: rows whose domain is none of LLaVA-Med's; they are kept without it.
    """

    num_figures: int = 0
    num_unknown_domains: int = 0
    problems: Counter[str] = field(default_factory=Counter[str])
    columns: Columns | None = None


def problems_of(out: Path) -> Path:
    """Return where it is written what was left out."""
    return out.with_name(f"{out.name}.problems.jsonl")


def write_figures(wish: Wish, advance: Callable[[], None]) -> Made:
    """Write the figures of a table.

    Args:
        advance: is called at each row.

    Raises:
        DataError: the table cannot be read, has no columns for image and caption, or no row can
            be used; or `out` is there.
    """
    if wish.out.exists() and not wish.force:
        raise DataError(
            f"{wish.out} is there already: choose another --out, or replace it (--force)"
        )
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished, problems = unfinished_of(wish.out), problems_of(wish.out)
    with ExitStack() as stack:
        stack.callback(unfinished.unlink, missing_ok=True)
        figures = stack.enter_context(unfinished.open("w", encoding="utf-8"))
        left_out = stack.enter_context(problems.open("w", encoding="utf-8"))
        made = _Writing(wish, figures, left_out).run(advance)
        figures.close()
        if not made.num_figures:
            reasons = ", ".join(f"{kind}: {num}" for kind, num in made.problems.most_common(3))
            raise DataError(f"no row of {wish.table} can be used ({reasons or 'it has none'})")
        sync_to_disk(unfinished)
        unfinished.replace(wish.out)
        sync_to_disk(wish.out.parent)
    if not made.problems:
        problems.unlink()
    return made


class _Writing:
    """One pass over a table."""

    def __init__(self, wish: Wish, figures: TextIO, left_out: TextIO) -> None:
        self._wish, self._figures, self._left_out = wish, figures, left_out
        self._made = Made()
        self._chooser = Chooser(wish.columns)
        self._pictures = Pictures(wish.images, wish.placed)
        self._embedded = EmbeddedPictures(wish.placed)
        self._seen: set[bytes] = set()
        self._names: set[bytes] = set()

    def run(self, advance: Callable[[], None]) -> Made:
        """Read all rows."""
        with open_table(self._wish.table, self._wish.encoding, self._tell) as table:
            if table.names is not None:
                self._chooser.columns_of(table.names)
            for row in table.rows:
                advance()
                self._take(row)
        self._made.columns = self._chooser.chosen
        return self._made

    def _take(self, row: Row) -> None:
        try:
            record = self._record(row)
        except DataError as error:
            self._leave_out(row, str(error))
            return
        self._figures.write(f"{json.dumps(record, ensure_ascii=False)}\n")
        self._made.num_figures += 1

    def _record(self, row: Row) -> Mapping[str, object]:
        """Return a row's record; raises DataError, whose text is the reason to leave it out."""
        columns = self._chooser.columns_of(row.values)
        caption = caption_of(row.values, columns)
        source = image_of(row.values, columns)
        is_file = isinstance(source, str)
        image = self._pictures.name_of(source) if is_file else self._embedded.name_of(source)
        own = id_of(row.values, columns.id)
        if not _is_new(self._seen, f"{image}\0{caption}"):
            raise DataError("twice: an earlier row has this image and caption")
        name = own or self._unique_name(image)
        if own is not None and not _is_new(self._names, own):
            raise DataError("twice: an earlier row has this id")
        record = record_of(name, image, caption, row.values, columns)
        figure_of(record)
        self._made.num_unknown_domains += domains_in(row.values, columns.domain).has_unknown
        return record

    def _unique_name(self, image: str) -> str:
        """Return a name made of the image's; the second caption of one image gets "-2"."""
        stem = os.path.splitext(image)[0][: MOST_ID_CHARS - 12]  # noqa: PTH122 - a name, no path
        stem = stem if is_safe_name(stem) else "figure"
        name, number = stem, 1
        while not _is_new(self._names, name):
            number += 1
            name = f"{stem}-{number}"
        return name

    def _leave_out(self, row: Row, kind: str) -> None:
        chosen = self._chooser.chosen
        image = row.values.get(chosen.image) if chosen is not None else None
        if isinstance(image, Mapping):
            image = cast("Mapping[str, object]", image).get("path")
        named = {"image": image[:500]} if isinstance(image, str) else {}
        self._tell(Problem(row.number, kind), named)

    def _tell(self, problem: Problem, more: Mapping[str, object] | None = None) -> None:
        self._made.problems[problem.kind] += 1
        line = {"row": problem.number, "kind": problem.kind, **(more or {})}
        self._left_out.write(f"{json.dumps(line)}\n")


def _is_new(known: set[bytes], text: str) -> bool:
    """Note a text; whether it was not yet known."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES
    ).digest()
    if digest in known:
        return False
    known.add(digest)
    return True
