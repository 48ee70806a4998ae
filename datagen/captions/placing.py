"""Files in the folder of figures' images: under safe names, and never in the place of others.

What does *not* live here: what the files are (`pictures.py`, `embedded.py`, `medical.py`).
"""

import filecmp
import re
import shutil
from pathlib import Path

from datagen.errors import DataError
from modeling.durable_files import sync_to_disk

_MOST_STEM = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=@-]+")


def safe_stem(text: str) -> str:
    """Return what of a text may stand in a file's name; never nothing."""
    return _UNSAFE.sub("_", text).strip("._")[-_MOST_STEM:] or "image"


def safe_suffix(text: str) -> str:
    """Return what of a suffix may stand in a file's name."""
    return _UNSAFE.sub("", text)[:10]


def put(unfinished: Path, place: Path) -> None:
    """Give a new file its name, or leave the same one there; raises DataError, OSError."""
    if is_taken(unfinished, place):
        return
    sync_to_disk(unfinished)
    unfinished.replace(place)


def link(file: Path, place: Path) -> None:
    """Give a file another name: a hard link, or a copy where there can be none."""
    try:
        if is_taken(file, place):
            return
        try:
            place.hardlink_to(file)
        except OSError:
            unfinished = place.with_name(f"{place.name}.partial")
            shutil.copyfile(file, unfinished)
            unfinished.replace(place)
    except OSError as error:
        raise DataError(f"image cannot be placed ({error.strerror})") from error


def is_taken(file: Path, place: Path) -> bool:
    """Whether the place holds the same bytes; raises DataError where it holds others.

    Bytes are compared: scans of one size may have one date, too.
    """
    if not (place.is_symlink() or place.exists()):
        return False
    is_same = not place.is_symlink() and (
        place.samefile(file) or filecmp.cmp(file, place, shallow=False)
    )
    if not is_same:
        raise DataError("another file has its name in --out-images")
    return True
