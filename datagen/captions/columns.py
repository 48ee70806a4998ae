"""Which column of a table holds what: guessed by usual names, or as the user says.

What does *not* live here: reading tables (`tables.py`), the values (`figure_rows.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from datagen.errors import DataError

USUAL: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "image_file", "file_name", "filename", "file", "path", "img"),
    "caption": ("caption", "fig_caption", "captions", "text", "description"),
    "domain": ("domain", "domains", "modality"),
    "mention": ("in_text_mention", "in_text_mentions", "mention", "mentions"),
    "label": ("fig_label", "label", "figure"),
    "licence": ("licence", "license"),
    "id": ("pair_id", "id"),
    "frame": ("frame",),
}
"""Names of columns, the likelier first; case, blanks and hyphens do not matter."""
NEEDED = ("image", "caption")


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each part of a figure; None: the table has none."""

    image: str
    caption: str
    domain: str | None
    mention: str | None
    label: str | None
    licence: str | None
    id: str | None
    frame: str | None

    def shown(self) -> str:
        """Return which was taken for what, for a user to read."""
        parts = ((part, getattr(self, part)) for part in USUAL)
        return ", ".join(f"{part} from {name!r}" for part, name in parts if name)


class Chooser:
    """Chooses columns.

    Args:
        given: by part, as the user says; parts that are missing are guessed.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self._known: dict[tuple[str, ...], Columns] = {}
        self.chosen: Columns | None = None

    def columns_of(self, names: Iterable[str]) -> Columns:
        """Return the columns among these names.

        Raises:
            DataError: a needed one is not found, or one that the user says is not there.
        """
        key = tuple(names)
        if key not in self._known:
            if len(self._known) > 1_000:  # of JSON's records, each may have other names
                self._known.clear()
            self._known[key] = self._choose(key)
        self.chosen = self.chosen or self._known[key]
        return self._known[key]

    def _choose(self, names: tuple[str, ...]) -> Columns:
        found = {part: self._column(part, names) for part in USUAL}
        image, caption = found.pop("image"), found.pop("caption")
        if image is None or caption is None:
            part = "image" if image is None else "caption"
            usual = ", ".join(USUAL[part])
            raise DataError(f"no column for the {part} (usual: {usual}); say it by --{part}-column")
        return Columns(image, caption, **found)

    def _column(self, part: str, names: tuple[str, ...]) -> str | None:
        if part in self._given:
            if self._given[part] not in names:
                raise DataError(f"no column {self._given[part]!r} for the {part}")
            return self._given[part]
        by_usual = {_plain(name): name for name in reversed(names)}
        return next((by_usual[usual] for usual in USUAL[part] if usual in by_usual), None)


@lru_cache(1_000)
def usual_columns(names: tuple[str, ...]) -> Columns | None:
    """Return the columns that usual names tell; None: there is none for image or caption."""
    try:
        return Chooser({}).columns_of(names)
    except DataError:
        return None


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
