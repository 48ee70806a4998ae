"""The images that a list wants of one archive, out of its bytes while they come.

Each is written beside its place, checked, synced and renamed: what has its name is whole. What does
*not* live here: HTTP (`fetching.py`), the tar format (`tar_stream.py`).
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.download import reasons
from datagen.download.tar_stream import Member, TarStream, Unpacked
from datagen.image_check import MOST_PIXELS, ImageError, Looks, look_at

PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image of the list: its number there, the name it gets, and its name in the archive."""

    number: int
    pair_id: str
    member: str


@dataclass(frozen=True, slots=True)
class Saved:
    """An image that is on the disk."""

    file: str
    looks: Looks
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an image; it was saved, or has a reason."""

    number: int
    saved: Saved | None = None
    reason: str | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of sizes: what is larger is refused while it comes."""

    archive_bytes: int = 4 << 30
    member_bytes: int = 256 << 20
    pixels: int = MOST_PIXELS


def extract(
    chunks: Iterator[bytes], wanted: Sequence[Wanted], folder: Path, limits: Limits
) -> Iterator[Result]:
    """Yield the result of each wanted image as soon as it is known; reads no further than needed.

    Raises:
        ArchiveError: the archive cannot be read on; those without a result may be in it.
        OSError: the disk is full.
    """
    by_member: dict[str, list[Wanted]] = {}
    for each in wanted:
        by_member.setdefault(each.member, []).append(each)
    archive = TarStream(Unpacked(chunks, limits.archive_bytes))
    for member in archive:
        if member.name not in by_member:
            continue
        images = by_member.pop(member.name)
        yield from _taken(archive, member, images, folder, limits)
        if not by_member:
            return
    for images in by_member.values():
        yield from (Result(each.number, reason=reasons.MEMBER_MISSING) for each in images)


def remove_partials(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(PARTIAL):
                Path(entry.path).unlink()


def _taken(
    archive: TarStream, member: Member, images: Sequence[Wanted], folder: Path, limits: Limits
) -> Iterator[Result]:
    reason = None
    if not member.is_file:
        reason = reasons.MEMBER_NO_FILE
    elif member.size > limits.member_bytes:
        reason = reasons.MEMBER_TOO_LARGE
    if reason is None:
        try:
            saved = _save(archive, folder, [f"{each.pair_id}.jpg" for each in images], limits)
        except ImageError as error:
            reason = error.reason
        else:
            for each, one in zip(images, saved, strict=True):
                yield Result(each.number, saved=one)
            return
    for each in images:
        yield Result(each.number, reason=reason)


def _save(archive: TarStream, folder: Path, names: Sequence[str], limits: Limits) -> list[Saved]:
    # Texts, not Paths, which intern each name: the table of interned texts, 2 MB, would be made
    # anew again and again, each time in the heap of another thread.
    places = [f"{folder}{os.sep}{name}" for name in names]
    partial = f"{places[0]}{PARTIAL}"
    digest = hashlib.sha256()
    size = 0
    try:
        with open(partial, "wb") as file:  # noqa: PTH123 - see above
            for part in archive.content():
                file.write(part)
                digest.update(part)
                size += len(part)
            file.flush()
            os.fsync(file.fileno())
        looks = look_at(partial, limits.pixels)
        for place in places[1:]:  # one member that several lines want
            _copy(partial, place)
        os.replace(partial, places[0])  # noqa: PTH105 - see above
    except BaseException:  # a cut connection, too
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)  # noqa: PTH108 - see above
        raise
    return [Saved(f"images/{name}", looks, size, digest.hexdigest()) for name in names]


def _copy(source: str, target: str) -> None:
    partial = Path(f"{target}{PARTIAL}")
    shutil.copyfile(source, partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)
