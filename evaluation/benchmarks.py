"""The benchmarks by name: where their files lie, and how many questions the published splits have.

Counts are those of the sets as LLaVA-Med converted them (its evaluation notebook; SLAKE's English
part; VQA-RAD's own split by question). What does *not* live here: reading files (`vqa_items.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.vqa_items import Item


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """How many questions of each kind."""

    open: int
    closed: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of questions.

    Args:
        questions: below the data's folder; `{split}` stands for the split.
        images: likewise.
        published: by split.
        column: of the published tables; None: there are none.
    """

    title: str
    questions: str = "{split}.json"
    images: str = "images"
    published: Mapping[str, SplitCounts] = field(default_factory=dict[str, SplitCounts])
    column: str | None = None

    def questions_file(self, data: Path, split: str) -> Path:
        """Return where the questions lie."""
        return data / self.questions.format(split=split)

    def images_folder(self, data: Path) -> Path:
        """Return where the images lie."""
        return data / self.images


BENCHMARKS: Mapping[str, Benchmark] = {
    "vqa-rad": Benchmark(
        "VQA-RAD",
        published={"train": SplitCounts(770, 1027), "test": SplitCounts(179, 272)},
        column="VQA-RAD",
    ),
    "slake": Benchmark(
        "SLAKE, English",
        published={
            "train": SplitCounts(2976, 1943),
            "val": SplitCounts(631, 422),
            "test": SplitCounts(645, 416),
        },
        column="SLAKE",
    ),
    "pathvqa": Benchmark(
        "PathVQA",
        published={
            "train": SplitCounts(9949, 9806),
            "val": SplitCounts(3144, 3135),
            "test": SplitCounts(3370, 3391),
        },
        column="PathVQA",
    ),
    "phantoms": Benchmark(
        "Phantom VQA", questions="phantoms/vqa/{split}.json", images="phantoms/images"
    ),
    "folder": Benchmark("VQA of a folder"),
}


def find(name: str) -> Benchmark:
    """Return a benchmark; raises EvaluationError for another name."""
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise EvaluationError(f"there is no benchmark {name!r}; take one of {known}")
    return BENCHMARKS[name]


def count(items: Sequence[Item]) -> SplitCounts:
    """Return how many questions there are of each kind."""
    closed = sum(item.is_closed for item in items)
    return SplitCounts(len(items) - closed, closed)


def other_than_published(benchmark: Benchmark, split: str, items: Sequence[Item]) -> str | None:
    """Return in words how a set differs from the published split; None: it does not."""
    published, found = benchmark.published.get(split), count(items)
    if published is None or published == found:
        return None
    return (
        f"{found.open} open and {found.closed} closed questions; the published {split} split of "
        f"{benchmark.title} has {published.open} and {published.closed}, so figures of others "
        "are not of these questions"
    )
