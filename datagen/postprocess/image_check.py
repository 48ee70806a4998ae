"""Images that are missing, broken, or a benchmark's: by their bytes, and by how they look.

How an image looks are 64 bits of its lowest frequencies (imagehash's `phash`), which survive
another size and another compression. Hashes are kept by path, size and time of change, so another
run reads no image twice. What does *not* live here: which images benchmarks show.
"""

import hashlib
import io
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import imagehash  # pyright: ignore[reportMissingTypeStubs] - it has none
import numpy as np
from PIL import Image

from datagen.errors import DataError
from datagen.image_check import FORMATS, MOST_PIXELS

DISTANCE_BITS = 4
"""Of 64; copies of another size or quality differ by 0 to 4 (tests/datagen/postprocess)."""
MOST_BYTES = 256 << 20
_COMMIT_EVERY = 256
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


class ImageHash(NamedTuple):
    """What an image's file holds.

    Args:
        looks: 64 bits; None: it is all of one colour and looks like many.
    """

    sha256: bytes
    looks: int | None


class ImageCheck:
    """Use it as a context manager.

    Args:
        folder: of the samples' images.
        cache: a file for hashes; made where it is missing.
        distance_bits: images that differ by no more look the same.
    """

    def __init__(self, folder: Path, cache: Path, distance_bits: int = DISTANCE_BITS) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; --images names the folder of images")
        self._folder = folder.resolve()
        self._cache = _Cache(cache)
        self._distance_bits = distance_bits
        self._bytes: set[bytes] = set()
        self._looks = np.zeros(0, np.uint64)

    def __enter__(self) -> "ImageCheck":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._cache.close()

    def forbid(self, images: Sequence[Path], advance: Callable[[], None]) -> None:
        """Take images as a benchmark's; raises DataError where one cannot be read."""
        looks: list[int] = []
        for path in images:
            found = self._cache.hash_of(path.resolve())
            advance()
            if isinstance(found, str):
                raise DataError(f"{path}: {found}; nothing could be compared with it")
            self._bytes.add(found.sha256)
            if found.looks is not None:
                looks.append(found.looks)
        self._looks = np.concatenate([self._looks, np.array(looks, np.uint64)])

    def reason_against(self, image: str) -> str | None:
        """Return why a sample of this image is left out; None: it stays."""
        path = (self._folder / image).resolve()
        if not path.is_relative_to(self._folder):  # a link that leads out of the folder
            return "image_outside"
        found = self._cache.hash_of(path)
        if isinstance(found, str):
            return found
        if found.sha256 in self._bytes:
            return "benchmark_image"
        if found.looks is not None and len(self._looks):
            differing = np.bitwise_count(self._looks ^ np.uint64(found.looks))
            if int(differing.min()) <= self._distance_bits:
                return "benchmark_image"
        return None


class _Cache:
    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        try:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER,"
                " changed INTEGER, sha256 BLOB, looks TEXT)"
            )
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is no file of image hashes; remove it") from error
        self._since_commit = 0

    def close(self) -> None:
        self._database.commit()
        self._database.close()

    def hash_of(self, path: Path) -> ImageHash | str:
        """Return what a file holds, or why there is nothing: a reason for counting."""
        try:
            facts = path.stat()
        except (OSError, ValueError):
            return "image_missing"
        key = (str(path), facts.st_size, facts.st_mtime_ns)
        row = self._database.execute(
            "SELECT sha256, looks FROM hashes WHERE path = ? AND size = ? AND changed = ?", key
        ).fetchone()
        if row is not None:
            sha256, looks = cast("tuple[bytes, str]", row)
            return ImageHash(sha256, int(looks, 16) if looks else None)
        if facts.st_size > MOST_BYTES or not path.is_file():
            return "image_unreadable"
        try:
            found = hash_image(path.read_bytes())
        except Exception:  # noqa: BLE001 - a decoder may raise anything
            return "image_unreadable"
        looks = "" if found.looks is None else f"{found.looks:016x}"
        self._database.execute(
            "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?)", (*key, found.sha256, looks)
        )
        self._since_commit += 1
        if self._since_commit >= _COMMIT_EVERY:
            self._database.commit()
            self._since_commit = 0
        return found


def hash_image(content: bytes) -> ImageHash:
    """Return the hashes of an encoded image; raises what Pillow raises where it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are read all the same
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError("too many pixels")
            image.load()
            grey = _grey(image)
    lowest, highest = cast("tuple[float, float]", grey.getextrema())
    looks: int | None = None
    if lowest != highest:
        bits = cast("Any", imagehash).phash(grey)
        looks = int(str(bits), 16)
    return ImageHash(hashlib.sha256(content).digest(), looks)


def _grey(image: Image.Image) -> Image.Image:
    """Return 8 bits a pixel; deeper ones are scaled, since Pillow would clip them to white."""
    if image.mode not in _DEEP_MODES:
        return image.convert("L")
    pixels = np.nan_to_num(np.asarray(image, np.float64))
    lowest, highest = float(pixels.min()), float(pixels.max())
    scaled = (pixels - lowest) * (255 / max(highest - lowest, 1e-9))
    return Image.fromarray(scaled.astype(np.uint8))
