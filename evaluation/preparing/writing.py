"""A benchmark's folder: `SPLIT.json` for each split, `images`, and what was found on the way.

The folder appears under its name when it is whole. An image is checked as it is copied: a name
never leaves the folder, and what is no image is counted. What does *not* live here: the public
formats.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.benchmarks import SplitCounts
from evaluation.errors import EvaluationError
from evaluation.item_images import check_image, read_file
from evaluation.preparing.records import Asked, Split, record_of
from modeling.durable_files import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a split came to.

    Args:
        images: by name, the hash of what they hold.
        left_out: reasons, with how many questions.
    """

    name: str
    counts: SplitCounts
    images: dict[str, str]
    left_out: dict[str, int]


def write_splits(
    splits: Sequence[Split], raw: Path, out: Path, advance: Callable[[], None]
) -> list[Prepared]:
    """Write a benchmark; returns what there is of each split.

    Args:
        raw: no image outside of it is read.
        advance: is told of each question.

    Raises:
        EvaluationError: the folder is there, or an original is damaged.
    """
    if out.exists():
        raise EvaluationError(f"{out} is there already; remove it, or take another --out")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    prepared = [_write(split, raw, partial, advance) for split in splits]
    write_json(
        partial / MANIFEST,
        {
            split.name: {
                "open": split.counts.open,
                "closed": split.counts.closed,
                "images": len(split.images),
                "left_out": split.left_out,
                "sha256": hashlib.sha256((partial / f"{split.name}.json").read_bytes()).hexdigest(),
            }
            for split in prepared
        },
    )
    partial.rename(out)
    return prepared


def shared_images(prepared: Sequence[Prepared]) -> dict[tuple[str, str], int]:
    """Return how many images each two splits share, by what they hold; those with none left out."""
    found: dict[tuple[str, str], int] = {}
    for number, first in enumerate(prepared):
        for second in prepared[number + 1 :]:
            num = len(set(first.images.values()) & set(second.images.values()))
            if num:
                found[first.name, second.name] = num
    return found


def _write(split: Split, raw: Path, folder: Path, advance: Callable[[], None]) -> Prepared:
    images: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    closed = written = 0
    with (folder / f"{split.name}.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for asked in split.asked:
            advance()
            why = _copy(asked, raw, folder / "images", images)
            if why is None and not asked.answer:
                why = "no answer"
            if why is not None:
                left_out[why] += 1
                continue
            file.write(",\n" if written else "\n")
            file.write(json.dumps(record_of(asked)))
            written += 1
            closed += asked.is_closed
        file.write("\n]\n")
    return Prepared(split.name, SplitCounts(written - closed, closed), images, dict(left_out))


def _copy(asked: Asked, raw: Path, folder: Path, images: dict[str, str]) -> str | None:
    """Put an image into the folder; returns why not."""
    name, content = asked.image.name, asked.image.content
    if Path(name).name != name or name.startswith("."):
        return "an image's name leads elsewhere"
    if isinstance(content, Path) and not content.is_relative_to(raw):
        return "an image's name leads elsewhere"
    if name in images:
        return None
    try:
        if isinstance(content, Path):
            content = read_file(raw, str(content.relative_to(raw)))
        check_image(name, content)
    except EvaluationError:
        return "an image is missing or cannot be read"
    (folder / name).write_bytes(content)
    images[name] = hashlib.sha256(content).hexdigest()
    return None
