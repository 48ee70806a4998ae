"""Images whose bytes stand in the table itself, as Hugging Face's data sets keep them in Parquet.

Each is written beside, under a name of its own, and checked as any other image. What does *not*
live here: images that are files already (`pictures.py`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datagen.captions.pictures import MOST_BYTES, checked_looks, is_same, safe_stem
from datagen.errors import DataError
from modeling.durable_files import sync_to_disk, unfinished_of

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}
"""Of formats whose usual suffix is not their name."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image inside a table.

    Args:
        path: what the table calls it; often nothing, often the same for all.
    """

    content: bytes
    path: str


class EmbeddedPictures:
    """Writes images out of a table.

    Args:
        placed: the folder for them; None: none is taken.
    """

    def __init__(self, placed: Path | None) -> None:
        self._placed = placed

    def name_of(self, image: Embedded) -> str:
        """Return the safe name of an image that is on the disk now; raises DataError, the reason.

        The name tells images of one path apart, and is the same in the next run.
        """
        if self._placed is None:
            raise DataError("image inside the table: give --out-images")
        if not 0 < len(image.content) <= MOST_BYTES:
            raise DataError("image file is empty or too large")
        digest = hashlib.blake2b(image.content, digest_size=8).hexdigest()
        stem = f"{safe_stem(PurePosixPath(image.path).stem)}-{digest}"
        unfinished = unfinished_of(self._placed / stem)
        try:
            return self._written(image.content, unfinished, stem)
        except OSError as error:
            raise DataError(f"image cannot be placed ({error.strerror})") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _written(self, content: bytes, unfinished: Path, stem: str) -> str:
        unfinished.write_bytes(content)
        kind = checked_looks(unfinished).format
        place = unfinished.with_name(f"{stem}{_SUFFIXES.get(kind, f'.{kind.lower()}')}")
        if place.is_symlink() or place.exists():
            if place.is_symlink() or not is_same(unfinished, place):
                raise DataError("another file has its name in --out-images")
            return place.name
        sync_to_disk(unfinished)
        unfinished.replace(place)
        return place.name
