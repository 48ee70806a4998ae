"""From a table and a folder of images to a file of figures, and a file of what was left out.

    OUT                     figures, JSON lines; has its name when it is whole
    OUT.problems.jsonl      rows that were left out: number, kind, image
    OUT.converted.jsonl     pictures made of DICOM and NIfTI files: by which recipe, of what

Memory: about a hundred bytes for each row, to know what came before. What does *not* live here:
reading (`tables.py`), images (`pictures.py`).
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from datagen.captions.columns import Chooser, Columns
from datagen.captions.embedded import Embedded, EmbeddedPictures
from datagen.captions.figure_rows import (
    caption_of,
    domains_in,
    frame_of,
    id_of,
    image_of,
    record_of,
)
from datagen.captions.medical import Conversion, MedicalPictures
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
        placed: a folder for links to images in sub-folders, for those inside the table, and for
            pictures of medical files; None: those are left out.
        columns: by part, as the user says.
        encoding: of CSV.
        conversion: of medical files.
    """

    images: Path | None
    table: Path
    out: Path
    placed: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    encoding: str = "utf-8"
    force: bool = False
    conversion: Conversion = field(default_factory=Conversion)


@dataclass(slots=True)
class Made:
    """What was made of a table.

    Args:
        problems: how many rows were left out, by reason.
        num_unknown_domains: rows whose domain is none of LLaVA-Med's; they are kept without it.
        num_converted: pictures of medical files.
    """

    num_figures: int = 0
    num_unknown_domains: int = 0
    num_converted: int = 0
    problems: Counter[str] = field(default_factory=Counter[str])
    columns: Columns | None = None


def problems_of(out: Path) -> Path:
    """Return where it is written what was left out."""
    return out.with_name(f"{out.name}.problems.jsonl")


def converted_of(out: Path) -> Path:
    """Return where it is written what medical files became."""
    return out.with_name(f"{out.name}.converted.jsonl")


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
    converted = converted_of(wish.out)
    with ExitStack() as stack:
        stack.callback(unfinished.unlink, missing_ok=True)
        figures = stack.enter_context(unfinished.open("w", encoding="utf-8"))
        left_out = stack.enter_context(problems.open("w", encoding="utf-8"))
        manifest = stack.enter_context(unfinished_of(converted).open("w", encoding="utf-8"))
        stack.callback(unfinished_of(converted).unlink, missing_ok=True)
        made = _Writing(wish, figures, left_out, manifest).run(advance)
        figures.close()
        manifest.close()
        if not made.num_figures:
            reasons = ", ".join(f"{kind}: {num}" for kind, num in made.problems.most_common(3))
            raise DataError(f"no row of {wish.table} can be used ({reasons or 'it has none'})")
        for whole in (unfinished_of(converted), unfinished):
            sync_to_disk(whole)
        unfinished_of(converted).replace(converted)
        unfinished.replace(wish.out)
        sync_to_disk(wish.out.parent)
    if not made.problems:
        problems.unlink()
    if not made.num_converted:
        converted.unlink()
    return made


class _Writing:
    """One pass over a table."""

    def __init__(self, wish: Wish, figures: TextIO, left_out: TextIO, manifest: TextIO) -> None:
        self._wish, self._figures, self._left_out = wish, figures, left_out
        self._made = Made()
        self._chooser = Chooser(wish.columns)
        self._medical = MedicalPictures(wish.placed, wish.conversion, manifest)
        self._pictures = Pictures(wish.images, wish.placed, self._medical)
        self._embedded = EmbeddedPictures(wish.placed, self._medical)
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
        self._made.num_converted = self._medical.num_pictures
        return self._made

    def _take(self, row: Row) -> None:
        try:
            columns = self._chooser.columns_of(row.values)
            caption_of(row.values, columns)
            sources = self._sources(row, columns)
        except DataError as error:
            self._leave_out(row, str(error))
            return
        for number, source in enumerate(sources, 1):
            try:
                record = self._record(row, columns, source, number)
            except DataError as error:
                self._leave_out(row, str(error))
                continue
            self._figures.write(f"{json.dumps(record, ensure_ascii=False)}\n")
            self._made.num_figures += 1

    def _sources(self, row: Row, columns: Columns) -> Sequence[str | Embedded]:
        """Return the images of a row: one, or those of a study's folder."""
        source = image_of(row.values, columns)
        return self._pictures.members_of(source) if isinstance(source, str) else [source]

    def _record(
        self, row: Row, columns: Columns, source: str | Embedded, number: int
    ) -> Mapping[str, object]:
        """Return the record of an image; raises DataError, whose text is the reason to leave it.

        Args:
            number: of the image in its row.
        """
        caption = caption_of(row.values, columns)
        frame = frame_of(row.values, columns.frame)
        if isinstance(source, str):
            image = self._pictures.picture_of(source, frame)
        else:
            image = self._embedded.picture_of(source, frame)
        own = id_of(row.values, columns.id)
        if own is not None and number > 1:
            own = f"{own}-{number}"
        if not _is_new(self._seen, f"{image.name}\0{caption}"):
            raise DataError("twice: an earlier row has this image and caption")
        name = own or self._unique_name(image.name)
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
