"""What benchmarks ask and show, so that nothing of it is trained on.

Reads folders as `galen data prepare` writes them (`SPLIT.json` and `images`; `train.json` is for
training and takes no part) and files of questions in the chat benchmark's JSON lines. What does
*not* live here: comparing images (`image_check.py`).
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from datagen.errors import DataError
from datagen.figures import is_safe_name
from datagen.records import Problem, read_records
from modeling.conversations import IMAGE_MARKER

LEAST_WORDS = 6
"""Shorter questions are everybody's: "What is the modality?"."""
LIKENESS = 0.8
_NO_SPLITS = {"train.json", "manifest.json"}
_WORD = re.compile(r"\w+")


class Benchmarks:
    """Questions and images of several benchmarks.

    Args:
        places: folders or files.

    Raises:
        DataError: one cannot be read or asks nothing.
    """

    def __init__(self, places: Iterable[Path]) -> None:
        self.images: list[Path] = []
        self.described: list[dict[str, Any]] = []
        questions: set[frozenset[str]] = set()
        for place in places:
            asked, shown = _read(place)
            questions |= asked
            self.images += sorted(shown)
            self.described.append(
                {"name": place.name, "questions": len(asked), "images": len(shown)}
            )
        self.questions = QuestionIndex(questions)


class QuestionIndex:
    """Finds questions whose words are nearly a benchmark's.

    Sets that are alike share one of their rarest words (the prefix filter of Chaudhuri et al.,
    2006, doi:10.1109/ICDE.2006.9), so few are compared, and none is missed.

    Args:
        questions: as sets of words.
    """

    def __init__(self, questions: Iterable[frozenset[str]]) -> None:
        asked = [words for words in questions if len(words) >= LEAST_WORDS]
        self._exact = set(asked)
        self._counts = Counter(word for words in asked for word in words)
        self._by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
        for words in asked:
            for word in self._rarest(words):
                self._by_word[word].append(words)

    def __len__(self) -> int:
        return len(self._exact)

    def has(self, question: str) -> bool:
        """Whether a question is asked by a benchmark, in nearly these words."""
        words = words_of(question)
        if len(words) < LEAST_WORDS:
            return False
        if words in self._exact:
            return True
        return any(
            len(words & other) >= LIKENESS * len(words | other)
            for word in self._rarest(words)
            for other in self._by_word.get(word, ())
        )

    def _rarest(self, words: frozenset[str]) -> list[str]:
        num = len(words) - math.ceil(LIKENESS * len(words)) + 1
        return sorted(words, key=lambda word: (self._counts[word], word))[:num]


def words_of(text: str) -> frozenset[str]:
    """Return a question's words, without case, punctuation and the image's marker."""
    return frozenset(_WORD.findall(text.replace(IMAGE_MARKER, " ").lower()))


def _read(place: Path) -> tuple[set[frozenset[str]], set[Path]]:
    files = [place]
    if place.is_dir():
        files = [file for file in sorted(place.glob("*.json*")) if file.name not in _NO_SPLITS]
    images = (place if place.is_dir() else place.parent) / "images"
    asked: set[frozenset[str]] = set()
    shown: set[Path] = set()
    for file in files:
        for question, image in _questions(file):
            asked.add(words_of(question))
            if image is not None and (images / image).is_file():
                shown.add(images / image)
    if not asked:
        raise DataError(
            f"{place} asks nothing; a benchmark is a folder with test.json and images, as `galen "
            "data prepare` makes it, or a file of questions"
        )
    return asked, shown


def _questions(file: Path) -> Iterator[tuple[str, str | None]]:
    def refuse(problem: Problem) -> None:
        raise DataError(f"{file} record {problem.number}: {problem.kind}; correct the benchmark")

    for found in read_records(file, refuse):
        question = _question_of(found.record)
        if question is None:
            raise DataError(f"{file} record {found.number} asks nothing; it is no benchmark")
        image = found.record.get("image")
        is_name = isinstance(image, str) and all(is_safe_name(p) for p in image.split("/"))
        yield question, cast("str", image) if is_name else None


def _question_of(record: Mapping[str, Any]) -> str | None:
    turns = record.get("conversations", record.get("conversatons"))
    if isinstance(turns, list) and turns:
        first = cast("list[object]", turns)[0]
        if isinstance(first, Mapping):
            return str(cast("Mapping[str, object]", first).get("value", ""))
    for name in ("text", "question"):
        if isinstance(record.get(name), str):
            return str(record[name])
    return None
