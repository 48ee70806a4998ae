"""VQA-RAD as published: one JSON file, one folder of images (Lau et al., 2018, osf.io/89kps).

Test questions are those whose `phrase_type` begins with "test". So questions about one image stand
in both splits. What does *not* live here: writing (`writing.py`).
"""

from collections.abc import Iterator
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.json_files import records_of
from evaluation.preparing.fields import is_closed, text_of
from evaluation.preparing.records import Asked, SourceImage, Split

_QUESTIONS = "VQA_RAD Dataset Public.json"
_IMAGES = "VQA_RAD Image Folder"


def splits(raw: Path) -> list[Split]:
    """Return both splits; raises EvaluationError."""
    file = raw / _QUESTIONS
    if not file.is_file():
        raise EvaluationError(f"{raw} holds no {_QUESTIONS!r}, as the original of VQA-RAD does")
    every = list(_read(file, raw / _IMAGES))
    return [
        Split(name, [asked for is_test, asked in every if is_test == (name == "test")])
        for name in ("train", "test")
    ]


def _read(file: Path, images: Path) -> Iterator[tuple[bool, Asked]]:
    for number, record in records_of(file):
        place = f"{file}: record {number}"
        image = text_of(record, "image_name", place)
        yield (
            text_of(record, "phrase_type", place).startswith("test"),
            Asked(
                id=text_of(record, "qid", place),
                image=SourceImage(image, images / image),
                question=text_of(record, "question", place),
                answer=text_of(record, "answer", place),
                is_closed=is_closed(record, place),
                kind=text_of(record, "question_type", place),
            ),
        )
