"""SLAKE 1.0 as published, its English questions (Liu et al., 2021, arXiv:2102.09542).

`train.json`, `validate.json` (also seen as `validation.json`), `test.json`, and `imgs` with a
folder for each image. What does *not* live here: writing (`writing.py`).
"""

from collections.abc import Iterator
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.json_files import records_of
from evaluation.preparing.fields import is_closed, text_of
from evaluation.preparing.records import Asked, SourceImage, Split

_FILES = {
    "train": ("train.json",),
    "val": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_IMAGES = "imgs"
_LANGUAGE = "en"


def splits(raw: Path) -> list[Split]:
    """Return all splits; raises EvaluationError."""
    return [Split(name, list(_read(_file(raw, names), raw))) for name, names in _FILES.items()]


def _file(raw: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (raw / name).is_file():
            return raw / name
    raise EvaluationError(f"{raw} holds no {' or '.join(names)}, as the original of SLAKE does")


def _read(file: Path, raw: Path) -> Iterator[Asked]:
    for number, record in records_of(file):
        place = f"{file}: record {number}"
        if text_of(record, "q_lang", place) != _LANGUAGE:
            continue
        image = text_of(record, "img_name", place)
        yield Asked(
            id=text_of(record, "qid", place),
            image=SourceImage(image.replace("_", "__").replace("/", "_"), raw / _IMAGES / image),
            question=text_of(record, "question", place),
            answer=text_of(record, "answer", place),
            is_closed=is_closed(record, place),
            kind=text_of(record, "content_type", place),
        )
