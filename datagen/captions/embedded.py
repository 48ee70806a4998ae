"""Images whose bytes stand in the table itself, as Hugging Face's data sets keep them in Parquet.

Each is written beside, under a name of its own, and checked as any other image. What does *not*
live here: images that are files already (`pictures.py`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datagen.captions.medical import HEAD_BYTES, MedicalPictures, Picture
from datagen.captions.pictures import MOST_BYTES, checked_looks
from datagen.captions.placing import put, safe_stem
from datagen.errors import DataError
from modeling.durable_files import unfinished_of
from modeling.medical_images.reading import is_medical

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
        medical: converts DICOM and NIfTI.
    """

    def __init__(self, placed: Path | None, medical: MedicalPictures) -> None:
        self._placed = placed
        self._medical = medical

    def picture_of(self, image: Embedded, frame: int | None) -> Picture:
        """Return an image that is on the disk now; raises DataError, the reason.

        Its name tells images of one path apart, and is the same in the next run.

        Args:
            frame: the row's own, of a DICOM or NIfTI file.
        """
        if self._placed is None:
            raise DataError("image inside the table: give --out-images")
        if not 0 < len(image.content) <= MOST_BYTES:
            raise DataError("image file is empty or too large")
        if is_medical(image.content[:HEAD_BYTES]):
            return self._medical.picture_of(image.content, frame)
        digest = hashlib.blake2b(image.content, digest_size=8).hexdigest()
        stem = f"{safe_stem(PurePosixPath(image.path).stem)}-{digest}"
        unfinished = unfinished_of(self._placed / stem)
        try:
            return Picture(self._written(image.content, unfinished, stem))
        except OSError as error:
            raise DataError(f"image cannot be placed ({error.strerror})") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _written(self, content: bytes, unfinished: Path, stem: str) -> str:
        unfinished.write_bytes(content)
        kind = checked_looks(unfinished).format
        place = unfinished.with_name(f"{stem}{_SUFFIXES.get(kind, f'.{kind.lower()}')}")
        put(unfinished, place)
        return place.name
