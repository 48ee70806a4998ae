"""Fields of the originals' records, or one line that says which is missing.

What does *not* live here: files (`json_files.py`).
"""

from collections.abc import Mapping

from evaluation.errors import EvaluationError

_TYPES = {"OPEN": False, "CLOSED": True}


def text_of(record: Mapping[str, object], name: str, place: str) -> str:
    """Return a field as a text; numbers are texts, too; raises EvaluationError."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise EvaluationError(f"{place} has no {name}")
    return str(value).strip()


def is_closed(record: Mapping[str, object], place: str) -> bool:
    """Return what `answer_type` says; raises EvaluationError."""
    kind = text_of(record, "answer_type", place).upper()
    if kind not in _TYPES:
        raise EvaluationError(f"{place}: answer_type {kind!r}; allowed are OPEN and CLOSED")
    return _TYPES[kind]
