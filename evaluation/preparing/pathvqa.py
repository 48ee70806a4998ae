"""PathVQA as published in Parquet (He et al., 2020, arXiv:2003.10286): images are in the tables.

`SPLIT-*.parquet`, also below `data/`, with the columns `image` (bytes and path), `question` and
`answer`; the split "validation" becomes val. A question is closed where its answer is yes or no.
The first release's pickles are refused: a pickle may run code, and the tables hold the same.
What does *not* live here: writing (`writing.py`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow  # type: ignore[import-untyped, reportMissingTypeStubs]
from pyarrow import parquet  # type: ignore[import-untyped, reportMissingTypeStubs]

from evaluation.errors import EvaluationError
from evaluation.preparing.records import Asked, SourceImage, Split

_parquet: Any = parquet
_pyarrow: Any = pyarrow
_ARROW_ERROR: type[Exception] = _pyarrow.ArrowException
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_COLUMNS = ["image", "question", "answer"]
_ROWS_AT_ONCE = 64
_KINDS = ("what", "where", "how", "when", "whose", "why")


def splits(raw: Path) -> list[Split]:
    """Return all splits, read as they are gone through; raises EvaluationError."""
    return [Split(name, _read(_files(raw, told), told)) for name, told in _SPLITS.items()]


def _files(raw: Path, split: str) -> list[Path]:
    found = sorted([*raw.glob(f"{split}-*.parquet"), *raw.glob(f"data/{split}-*.parquet")])
    if found:
        return found
    if pickled := next(raw.rglob("*.pkl"), None):
        raise EvaluationError(
            f"{pickled} is a pickle, which may run code when it is read; take PathVQA's Parquet "
            "files, which hold the same"
        )
    raise EvaluationError(f"{raw} holds no {split}-*.parquet, as PathVQA in Parquet does")


def _read(files: list[Path], split: str) -> Iterator[Asked]:
    number = 0
    for file in files:
        for row in _rows(file):
            yield _asked(row, f"{split}-{number}", f"{file}: row {number}")
            number += 1


def _rows(file: Path) -> Iterator[Mapping[str, object]]:
    try:
        for batch in _parquet.ParquetFile(file).iter_batches(_ROWS_AT_ONCE, columns=_COLUMNS):
            yield from batch.to_pylist()
    except (_ARROW_ERROR, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise EvaluationError(f"{file} is no Parquet of PathVQA: {reason}") from error


def _asked(row: Mapping[str, object], name: str, place: str) -> Asked:
    image, question, answer = (row.get(column) for column in _COLUMNS)
    content = cast("Mapping[str, object]", image).get("bytes") if isinstance(image, dict) else None
    for value, kind in ((content, bytes), (question, str), (answer, str)):
        if not isinstance(value, kind):
            raise EvaluationError(f"{place} has no {', '.join(_COLUMNS)}")
    content, question, answer = cast("bytes", content), str(question).strip(), str(answer).strip()
    # The same image stands in each of its questions' rows: it is known by what it holds.
    sha256 = hashlib.sha256(content).hexdigest()
    first = question.lower().partition(" ")[0].rstrip("?")
    closed = answer.lower() in {"yes", "no"}
    return Asked(
        id=name,
        image=SourceImage(f"{sha256[:24]}.jpg", content),
        question=question,
        answer=answer,
        is_closed=closed,
        kind="yes/no" if closed else first if first in _KINDS else "other",
    )
