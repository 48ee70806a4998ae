"""Records of any size of file, one at a time: JSON lines, a JSON list, or an object of lists.

The three shapes in which LLaVA-Med's files come (docs/llava-med.md); the third one is its captions'
file, a list of figures for each domain. What is broken is counted and told, never an end: one bad
line of JSONL costs that line alone; a broken list ends where it is broken, since nothing behind it
can be found. Memory holds one record. What does *not* live here: what a record means.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import ijson  # pyright: ignore[reportMissingTypeStubs] - it has none
import msgspec

from datagen.errors import DataError

Shape = Literal["lines", "list", "lists by name"]
Record = dict[str, Any]
"""What a JSON parser made of an object; nothing of it has been checked."""

MOST_LINE_BYTES = 16 << 20
"""Longer than any conversation; a longer line is a problem, and never held as a whole."""
_BOM = b"\xef\xbb\xbf"
_WINDOW_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 18  # lines are longer than the usual 8 KB has room for many of
_LFS_POINTER = b"version https://git-lfs"
_MOST_DEPTH_ERRORS = (ValueError, RecursionError, ijson.JSONError)


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be read, in words that quote nothing of it.

    Args:
        number: of the line from 1, or of the record from 1 where there are no lines.
        kind: one of a few, for counting.
    """

    number: int
    kind: str


@dataclass(frozen=True, slots=True)
class Found:
    """A record and its place.

    Args:
        number: as a problem's.
        group: the list's name, in an object of lists.
    """

    number: int
    record: Record
    group: str | None = None


Tell = Callable[[Problem], None]


def shape_of(path: Path) -> Shape:
    """Return how a file holds its records; raises DataError where it cannot be any of them."""
    with _opened(path) as file:
        head = file.read(_WINDOW_BYTES).removeprefix(_BOM).lstrip()
        if not head:
            raise DataError(f"{path} is empty; give a file of records")
        if head.startswith(_LFS_POINTER):
            raise DataError(f"{path} is a Git LFS pointer, not the data; run `git lfs pull`")
        if head[:1] == b"[":
            return "list"
        if head[:1] != b"{":
            raise DataError(f"{path} is no JSON: its first character must be [ or {{")
        return "lists by name" if _is_object_of_lists(file) else "lines"


def read_records(path: Path, tell: Tell) -> Iterator[Found]:
    """Yield the records of a file in their order.

    Args:
        tell: is told of what cannot be read; each such line or record is left out.

    Raises:
        DataError: the file cannot be read at all.
    """
    match shape_of(path):
        case "lines":
            yield from _lines(path, tell)
        case "list":
            yield from _members(path, tell)
        case "lists by name":
            yield from _members_by_name(path, tell)


def line_records(file: BinaryIO, tell: Tell) -> Iterator[Found]:
    """Yield the records of an open file of JSON lines."""
    decode = msgspec.json.Decoder().decode
    for number, line in _bounded_lines(file):
        if line is None:
            tell(Problem(number, "line too long"))
            continue
        if number == 1:
            line = line.removeprefix(_BOM)  # noqa: PLW2901
        if line.isspace() or not line:
            continue
        try:
            record = decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            record = _as_json(line)
        if isinstance(record, dict):
            yield Found(number, cast("Record", record))
        elif record is None and not line.endswith(b"\n"):
            tell(Problem(number, "torn last line"))
        else:
            tell(Problem(number, "no JSON" if record is None else "no object"))


def _as_json(line: bytes) -> object:
    """Return what Python's parser makes of it: it takes NaN and lone surrogates; None: nothing."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(path: Path, tell: Tell) -> Iterator[Found]:
    with _opened(path) as file:
        yield from line_records(file, tell)


def _bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield numbered lines; None stands for one that is too long."""
    number = 0
    while line := file.readline(MOST_LINE_BYTES):
        number += 1
        if line.endswith(b"\n") or len(line) < MOST_LINE_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)
        yield number, None


def _members(path: Path, tell: Tell) -> Iterator[Found]:
    with _opened(path) as file:
        _pass_bom(file)
        number = 0
        try:
            for number, member in enumerate(ijson.items(file, "item", use_float=True), start=1):
                if isinstance(member, dict):
                    yield Found(number, cast("Record", member))
                else:
                    tell(Problem(number, "no object"))
        except _MOST_DEPTH_ERRORS:
            tell(Problem(number + 1, "broken list"))


def _members_by_name(path: Path, tell: Tell) -> Iterator[Found]:
    with _opened(path) as file:
        _pass_bom(file)
        number, group, depth = 0, None, 0
        builder: Any = None  # of no known type
        try:
            for prefix, event, value in ijson.parse(file, use_float=True):
                if builder is None:
                    if event == "map_key" and prefix == "":
                        group = str(value)
                    elif prefix == f"{group}.item":
                        number += 1
                        if event != "start_map":
                            tell(Problem(number, "no object"))
                            if event == "start_array":
                                raise ijson.JSONError("a list among the records")
                            continue
                        builder, depth = ijson.ObjectBuilder(), 0
                    else:
                        continue
                if builder is None:
                    continue
                builder.event(event, value)
                depth += {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}.get(
                    event, 0
                )
                if depth == 0:
                    yield Found(number, cast("Record", builder.value), group)
                    builder = None
        except _MOST_DEPTH_ERRORS:
            tell(Problem(number + 1, "broken list"))


def _is_object_of_lists(file: BinaryIO) -> bool:
    """Whether the first value of an object is a list of objects, and the object no line."""
    _pass_bom(file)
    first = file.readline(MOST_LINE_BYTES)
    if isinstance(_as_json(first), dict):  # a whole object in one line
        record = cast("Record", _as_json(first))
        is_group = bool(record) and all(_is_list_of_objects(value) for value in record.values())
        return is_group and not file.read(1) and not {"conversations", "conversatons"} & set(record)
    _pass_bom(file)
    try:
        for number, (prefix, event, _) in enumerate(ijson.parse(file)):
            if number == 2:
                return prefix != "" and event == "start_array"
    except _MOST_DEPTH_ERRORS:
        return False
    return False


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(member, dict) for member in cast("list[object]", value)
    )


def _pass_bom(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a file") from error
