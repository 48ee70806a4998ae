"""Images that a table names: each is a readable file in one folder, under a safe name.

`galen datagen instruct` knows images by one safe name in one folder. Those in sub-folders, or under
other names, are linked (or copied, across file systems) into a folder of their own where one is
given. What does *not* live here: the table.
"""

import filecmp
import hashlib
import os
import re
import shutil
import stat
from functools import lru_cache
from pathlib import Path

from datagen.errors import DataError
from datagen.figures import is_safe_name
from datagen.image_check import TOO_MANY_PIXELS, ImageError, Looks, look_at

MOST_BYTES = 256 << 20
_MOST_STEM = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=@-]+")
_KEPT = 50_000  # results: captions of one image stand in many rows


class Pictures:
    """Checks images, and gives each a name.

    Args:
        folder: no image outside of it is taken; None: none is.
        placed: a folder for links; None: only images that need none are taken.
    """

    def __init__(self, folder: Path | None, placed: Path | None) -> None:
        self._folder = folder
        self._placed = placed
        if placed is not None:
            placed.mkdir(parents=True, exist_ok=True)
            if folder is not None and placed.resolve() == folder.resolve():
                raise DataError("--out-images is the folder of images itself; choose another one")
        self._cached_name_of = lru_cache(_KEPT)(self._find)

    def name_of(self, written: str) -> str:
        """Return the safe name of an image; raises DataError, whose text is the reason."""
        name, reason = self._cached_name_of(written)
        if reason:
            raise DataError(reason)
        return name

    def _find(self, written: str) -> tuple[str, str]:
        """Return a name and nothing, or a reason: what is kept for the next row that asks."""
        try:
            return self._placed_name(*self._checked(written)), ""
        except DataError as error:
            return "", str(error)

    def _checked(self, written: str) -> tuple[Path, str]:
        """Return an image's file, and its path inside the folder."""
        if not written.strip() or "\0" in written:
            raise DataError("no image named")
        if self._folder is None:
            raise DataError("image is a file: give --images")
        root = Path(os.path.abspath(self._folder))  # noqa: PTH100 - names as they are written, links kept
        path = Path(os.path.normpath(root / written.strip()))
        try:
            inside = path.relative_to(root).as_posix()
            real = path.resolve(strict=True)
            facts = real.stat()
        except ValueError as error:
            raise DataError("image outside the folder") from error
        except OSError as error:
            raise DataError("image not found") from error
        if not real.is_relative_to(self._folder.resolve()):
            raise DataError("image outside the folder")
        if not stat.S_ISREG(facts.st_mode):
            raise DataError("image is no file")
        if not 0 < facts.st_size <= MOST_BYTES:
            raise DataError("image file is empty or too large")
        checked_looks(real)
        return real, inside

    def _placed_name(self, file: Path, inside: str) -> str:
        if self._placed is None:
            if "/" in inside:
                raise DataError("image in a sub-folder: give --out-images")
            if not is_safe_name(inside):
                raise DataError("image under an unsafe name: give --out-images")
            return inside
        name = inside if is_safe_name(inside) else _safe_name(inside)
        _link(file, self._placed / name)
        return name


def _safe_name(inside: str) -> str:
    """Return a safe name that no other path has: the hash tells "a/b" from "a_b"."""
    path = Path(inside)
    stem = safe_stem(inside.removesuffix(path.suffix))
    digest = hashlib.blake2b(inside.encode("utf-8", "surrogateescape"), digest_size=5).hexdigest()
    return f"{stem}-{digest}{_UNSAFE.sub('', path.suffix)[:10]}"


def safe_stem(text: str) -> str:
    """Return what of a text may stand in a file's name; never nothing."""
    return _UNSAFE.sub("_", text).strip("._")[-_MOST_STEM:] or "image"


def _link(file: Path, place: Path) -> None:
    """Give a file another name: a hard link, or a copy where there can be none."""
    try:
        if place.is_symlink() or place.exists():
            if not place.is_symlink() and is_same(file, place):
                return
            raise DataError("another file has its name in --out-images")
        try:
            place.hardlink_to(file)
        except OSError:
            unfinished = place.with_name(f"{place.name}.partial")
            shutil.copyfile(file, unfinished)
            unfinished.replace(place)
    except OSError as error:
        raise DataError(f"image cannot be placed ({error.strerror})") from error


def is_same(file: Path, place: Path) -> bool:
    """Whether both hold the same bytes: scans of one size may have one date, too."""
    return place.samefile(file) or filecmp.cmp(file, place, shallow=False)


def checked_looks(file: Path) -> Looks:
    """Decode an image; raises DataError, whose text is the reason, where that fails."""
    try:
        return look_at(file)
    except ImageError as error:
        too_large = error.reason == TOO_MANY_PIXELS
        why = "image has too many pixels" if too_large else "image cannot be read"
        raise DataError(why) from error
