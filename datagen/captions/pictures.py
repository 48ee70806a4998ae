"""Images that a table names: each is a readable file in one folder, under a safe name.

`galen datagen instruct` knows images by one safe name in one folder. Those in sub-folders, or under
other names, are linked (or copied, across file systems) into a folder of their own where one is
given. DICOM and NIfTI files are converted. A folder is a study: each of its DICOM and NIfTI files
is a picture. What does *not* live here: the table, conversion (`medical.py`).
"""

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path

from datagen.captions.medical import MedicalPictures, Picture, is_medical_file
from datagen.captions.placing import link, safe_stem, safe_suffix
from datagen.errors import DataError
from datagen.figures import is_safe_name
from datagen.image_check import TOO_MANY_PIXELS, ImageError, Looks, look_at

MOST_BYTES = 256 << 20
MOST_OF_STUDY = 16
"""Of the pictures that one caption is given: views of a film, not the slices of a volume."""
_KEPT = 50_000  # results: captions of one image stand in many rows


class Pictures:
    """Checks images, and gives each a name.

    Args:
        folder: no image outside of it is taken; None: none is.
        placed: a folder for links; None: only images that need none are taken.
        medical: converts DICOM and NIfTI.
    """

    def __init__(self, folder: Path | None, placed: Path | None, medical: MedicalPictures) -> None:
        self._folder = folder
        self._placed = placed
        self._medical = medical
        if placed is not None:
            placed.mkdir(parents=True, exist_ok=True)
            if folder is not None and placed.resolve() == folder.resolve():
                raise DataError("--out-images is the folder of images itself; choose another one")
        self._cached_picture_of = lru_cache(_KEPT)(self._find)

    def members_of(self, written: str) -> list[str]:
        """Return the images that a name stands for: itself, or the medical files of a folder.

        Raises:
            DataError: a folder that holds none, or more than MOST_OF_STUDY.
        """
        root = self._root()
        folder = Path(os.path.normpath(root / written.strip()))
        if not written.strip() or "\0" in written or not folder.is_dir():
            return [written]
        if folder == root or not folder.resolve().is_relative_to(root.resolve()):
            raise DataError("image outside the folder")
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        found: list[str] = []
        for path in files:
            if is_medical_file(path):
                found.append(path.relative_to(root).as_posix())
            if len(found) > MOST_OF_STUDY:
                raise DataError(f"study of more than {MOST_OF_STUDY} images: name its files")
        if not found:
            raise DataError("image is a folder without DICOM or NIfTI files")
        return found

    def picture_of(self, written: str, frame: int | None) -> Picture:
        """Return an image under its safe name; raises DataError, whose text is the reason.

        Args:
            frame: the row's own, of a DICOM or NIfTI file.
        """
        picture, reason = self._cached_picture_of(written, frame)
        if picture is None:
            raise DataError(reason)
        return picture

    def _find(self, written: str, frame: int | None) -> tuple[Picture | None, str]:
        """Return a picture, or a reason: what is kept for the next row that asks."""
        try:
            file, inside = self._checked(written)
            if is_medical_file(file):
                return self._medical.picture_of(file.read_bytes(), frame), ""
            checked_looks(file)
            return Picture(self._placed_name(file, inside)), ""
        except DataError as error:
            return None, str(error)
        except OSError as error:
            return None, f"image cannot be read ({error.strerror})"

    def _root(self) -> Path:
        if self._folder is None:
            raise DataError("image is a file: give --images")
        return Path(os.path.abspath(self._folder))  # noqa: PTH100 - names as they are written, links kept

    def _checked(self, written: str) -> tuple[Path, str]:
        """Return an image's file, and its path inside the folder."""
        if not written.strip() or "\0" in written:
            raise DataError("no image named")
        root = self._root()
        path = Path(os.path.normpath(root / written.strip()))
        try:
            inside = path.relative_to(root).as_posix()
            real = path.resolve(strict=True)
            facts = real.stat()
        except ValueError as error:
            raise DataError("image outside the folder") from error
        except OSError as error:
            raise DataError("image not found") from error
        if not real.is_relative_to(root.resolve()):
            raise DataError("image outside the folder")
        if not stat.S_ISREG(facts.st_mode):
            raise DataError("image is no file")
        if not 0 < facts.st_size <= MOST_BYTES:
            raise DataError("image file is empty or too large")
        return real, inside

    def _placed_name(self, file: Path, inside: str) -> str:
        if self._placed is None:
            if "/" in inside:
                raise DataError("image in a sub-folder: give --out-images")
            if not is_safe_name(inside):
                raise DataError("image under an unsafe name: give --out-images")
            return inside
        name = inside if is_safe_name(inside) else _safe_name(inside)
        link(file, self._placed / name)
        return name


def _safe_name(inside: str) -> str:
    """Return a safe name that no other path has: the hash tells "a/b" from "a_b"."""
    path = Path(inside)
    stem = safe_stem(inside.removesuffix(path.suffix))
    digest = hashlib.blake2b(inside.encode("utf-8", "surrogateescape"), digest_size=5).hexdigest()
    return f"{stem}-{digest}{safe_suffix(path.suffix)}"


def checked_looks(file: Path) -> Looks:
    """Decode an image; raises DataError, whose text is the reason, where that fails."""
    try:
        return look_at(file)
    except ImageError as error:
        too_large = error.reason == TOO_MANY_PIXELS
        why = "image has too many pixels" if too_large else "image cannot be read"
        raise DataError(why) from error
