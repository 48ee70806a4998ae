"""From a file of items to a folder of drawings, numbers and a page.

    OUT/stats.html      all of it, in one file
    OUT/stats.json      the numbers
    OUT/*.png           the drawings

The page comes last: where it is, the rest is whole. What does *not* live here: what is counted
(`counting.py`) and how it looks (`drawing.py`, `page.py`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from datagen.errors import DataError
from datagen.records import Problem, read_records
from datagen.stats import drawing
from datagen.stats.counting import Histogram, Roots, Tally
from datagen.stats.items import Item, item_of
from datagen.stats.page import samples_of, write_page
from modeling.durable_files import write_json

NUMBERS = "stats.json"
PAGE = "stats.html"
_GENERATOR = "galen-stats"
_TABLE_NOUNS = 6


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Args:
        images: a folder of the items' images.
        limit: so many records are read; None: all.
    """

    file: Path
    out: Path
    images: Path | None = None
    num_samples: int = 24
    seed: int = 0
    limit: int | None = None


def write_statistics(wish: Wish, advance: Callable[[], None]) -> Tally:
    """Count a file of items and write what was found.

    Args:
        advance: is called at each record.

    Raises:
        DataError: the file cannot be read at all, holds no item, or `out` is somebody else's.
    """
    _check_out(wish.out)
    tally = Tally(wish.num_samples, wish.seed)
    for item in _items(wish, tally, advance):
        tally.add(item)
    if not tally.num_items:
        seen = ", ".join(f"{kind}: {num}" for kind, num in tally.problems.most_common(3))
        raise DataError(f"{wish.file} has no conversation that can be read ({seen or 'no record'})")
    wish.out.mkdir(parents=True, exist_ok=True)
    (wish.out / PAGE).unlink(missing_ok=True)
    numbers = _numbers(wish, tally)
    write_json(wish.out / NUMBERS, numbers)  # first: it tells whose folder this is
    drawings = _draw(wish.out, tally)
    samples = samples_of(tally, wish.images)
    missing = [sample for sample in samples if sample.why and wish.images is not None]
    write_json(wish.out / NUMBERS, {**numbers, "sample_images_missing": len(missing)})
    unfinished = wish.out / f"{PAGE}.partial"
    roots = {
        name: side.most_common(drawing.NUM_VERBS, _TABLE_NOUNS) for name, side in _sides(tally)
    }
    write_page(
        unfinished,
        samples,
        drawings,
        source=wish.file.name,
        tally=tally,
        roots=roots,
        summary=numbers,
        num_missing=len(missing),
        has_images=wish.images is not None,
    )
    unfinished.replace(wish.out / PAGE)
    return tally


def _items(wish: Wish, tally: Tally, advance: Callable[[], None]) -> Iterator[Item]:
    def tell(problem: Problem) -> None:
        tally.problems[problem.kind] += 1

    for found in islice(read_records(wish.file, tell), wish.limit):
        advance()
        try:
            yield item_of(found)
        except DataError as error:
            tally.problems[str(error)] += 1


def _check_out(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise DataError(f"{out} is no folder; choose another --out")
    if not any(out.iterdir()):
        return
    try:
        content: object = json.loads((out / NUMBERS).read_bytes())
    except (OSError, ValueError):
        content = None
    if not (isinstance(content, dict) and ("generator", _GENERATOR) in content.items()):
        raise DataError(f"{out} holds files of somebody else; choose another --out")


def _sides(tally: Tally) -> tuple[tuple[str, Roots], tuple[str, Roots]]:
    return ("instructions", tally.instructions), ("answers", tally.answers)


def _draw(out: Path, tally: Tally) -> dict[str, Path]:
    """Draw all; returns each drawing's file."""
    roots = {
        name: side.most_common(drawing.NUM_VERBS, drawing.NUM_NOUNS) for name, side in _sides(tally)
    }
    both = tally.instructions.verbs + tally.answers.verbs
    drawn = {root.verb for side in roots.values() for root in side}
    order = sorted(drawn, key=lambda verb: (-both[verb], verb))
    colours = drawing.colours_of(order)
    names = ("sunburst-instructions", "sunburst-answers", "domains", "turns", "lengths")
    files = {name: out / f"{name}.png" for name in names}
    for name, side in roots.items():
        drawing.draw_sunburst(files[f"sunburst-{name}"], name, side, colours)
    drawing.draw_domains(files["domains"], tally.domain_counts())
    drawing.draw_rounds(files["turns"], tally.rounds.histogram())
    words = tally.question_words.histogram(), tally.answer_words.histogram()
    drawing.draw_lengths(files["lengths"], *words)
    return files


def _numbers(wish: Wish, tally: Tally) -> dict[str, object]:
    return {
        "generator": _GENERATOR,
        "file": wish.file.name,
        "limit": wish.limit,
        "seed": wish.seed,
        "conversations": tally.num_items,
        "with_image": tally.num_with_image,
        "with_several_domains": tally.num_with_several_domains,
        "problems": dict(sorted(tally.problems.items())),
        "domains": dict(tally.domain_counts()),
        "rounds": _histogram(tally.rounds.histogram()),
        "question_words": _histogram(tally.question_words.histogram()),
        "answer_words": _histogram(tally.answer_words.histogram()),
        "roots": {name: _roots(side) for name, side in _sides(tally)},
        "method": "rule-based verbs and nouns, English (datagen/stats/verb_noun.py)",
    }


def _histogram(histogram: Histogram) -> dict[str, object]:
    return {
        "mean": round(histogram.mean, 3),
        "median": histogram.quantile(0.5),
        "p95": histogram.quantile(0.95),
        "max": histogram.most,
        "last_is_and_more": histogram.cap,
        "counts": {str(value): number for value, number in histogram.counts.items()},
    }


def _roots(roots: Roots) -> dict[str, object]:
    return {
        "texts": roots.num_texts,
        "without_verb": roots.num_without_verb,
        "nouns_over_the_limit": roots.num_nouns_over,
        "verbs": [
            {"verb": share.verb, "number": share.number, "nouns": dict(share.nouns)}
            for share in roots.most_common(100, 20)
        ],
    }
