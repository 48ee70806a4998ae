"""JSON lists and JSON lines as numbered records; a torn last line is left out.

What does *not* live here: what records mean.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from evaluation.errors import EvaluationError

_BOM = b"\xef\xbb\xbf"


def records_of(file: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield a file's objects with their numbers, or the numbers of their lines, from 0.

    Raises:
        EvaluationError: it cannot be read, is no JSON, or holds something else.
    """
    content = read_bytes(file)
    if content.lstrip()[:1] == b"[":
        listed = parse_json(content, str(file))
        numbered = enumerate(cast("Sequence[object]", listed))
    else:
        numbered = _lines(content, file)
    for number, record in numbered:
        if not isinstance(record, dict):
            raise EvaluationError(f"{file}: record {number} is no JSON object")
        yield number, cast("Mapping[str, object]", record)


def read_bytes(file: Path) -> bytes:
    """Return a file's content without a byte order mark; raises EvaluationError."""
    try:
        return file.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise EvaluationError(f"{file} cannot be read: {error.strerror}") from error


def parse_json(content: bytes, place: str) -> object:
    """Return what JSON says; raises EvaluationError."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{place} is no JSON ({type(error).__name__})") from error


def _lines(content: bytes, file: Path) -> Iterator[tuple[int, object]]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        is_torn = number == len(lines) - 1  # no newline behind it: its writer was killed
        try:
            yield number, parse_json(line, f"{file}: line {number + 1}")
        except EvaluationError:
            if not is_torn:
                raise
