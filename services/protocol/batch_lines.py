"""The lines of a batch's input, as OpenAI writes them: read, checked, and cut into shards. Pure.

    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ...}}

Empty lines do not count. Messages name lines as a user counts them, from 1, and quote no text of
one but its `custom_id`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import msgspec

from services.protocol.jobs import (
    BATCH_ENDPOINTS,
    MAX_CUSTOM_ID,
    MAX_LINE_BYTES,
    MAX_LINES,
)

_BOM = b"\xef\xbb\xbf"
_SHOWN = 40
_S = TypeVar("_S", bound=msgspec.Struct)


class BatchInputError(Exception):
    """A line, or a whole file, that is no input of a batch.

    Args:
        line: its number, from 1; None: it is the file's.
        param: the field at fault.
    """

    def __init__(
        self, code: str, message: str, *, line: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line = line
        self.param = param


class BatchLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request; `body` is sent as it stands."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    """What we have to know of a body; the gateway checks the rest when it gets it."""

    model: str
    stream: bool | None = None


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line of a file that is not empty.

    Args:
        number: from 1, as an editor counts.
        start_byte: in the file.
        end_byte: behind its line break.
    """

    number: int
    start_byte: int
    end_byte: int
    content: bytes


@dataclass(frozen=True, slots=True)
class BatchInput:
    """What a whole file is."""

    num_lines: int
    model: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Span:
    """Lines that follow one another; `first` counts from 0, without empty lines."""

    first: int
    num_lines: int
    start_byte: int
    end_byte: int


def raw_lines(file: BinaryIO, *, start_byte: int = 0) -> Iterator[RawLine]:
    """Give the lines of a file from where it stands; raises BatchInputError for one too long.

    Args:
        start_byte: where that is.
    """
    place, number = start_byte, 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        start, place = place, place + len(raw)
        if len(raw) > MAX_LINE_BYTES:
            limit = f"{MAX_LINE_BYTES >> 20} MiB"
            raise BatchInputError(
                "line_too_long", f"line {number} is longer than the {limit} allowed", line=number
            )
        content = (raw.removeprefix(_BOM) if start == 0 else raw).strip(b" \t\r\n")
        if content:
            yield RawLine(number, start, place, content)


def read_line(content: bytes, number: int) -> BatchLine:
    """Read a line; raises BatchInputError."""
    line = _decoded(content, BatchLine, number, "")
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        raise BatchInputError(
            "invalid_custom_id",
            f"line {number}: custom_id has {len(line.custom_id)} characters; "
            f"1 to {MAX_CUSTOM_ID} are allowed",
            line=number,
            param="custom_id",
        )
    if line.method != "POST":
        raise BatchInputError(
            "invalid_method",
            f"line {number}: method is {line.method[:_SHOWN]!r}; it must be 'POST'",
            line=number,
            param="method",
        )
    if line.url not in BATCH_ENDPOINTS:
        raise BatchInputError(
            "invalid_url",
            f"line {number}: url is {line.url[:_SHOWN]!r}; it must be {BATCH_ENDPOINTS[0]!r}",
            line=number,
            param="url",
        )
    return line


def check_lines(lines: Iterable[RawLine]) -> BatchInput:
    """Check a whole file: every line, ids that are there once, one model, one url.

    Raises:
        BatchInputError: the first mistake.
    """
    lines_by_id: dict[str, int] = {}
    model = endpoint = ""
    for raw in lines:
        number = raw.number
        if len(lines_by_id) == MAX_LINES:
            raise BatchInputError(
                "too_many_lines", f"there are more than the {MAX_LINES} lines allowed", line=number
            )
        line = read_line(raw.content, number)
        if (before := lines_by_id.setdefault(line.custom_id, number)) != number:
            raise BatchInputError(
                "duplicate_custom_id",
                f"line {number}: custom_id {line.custom_id[:_SHOWN]!r} stands in line {before}, "
                "too; each must be there once",
                line=number,
                param="custom_id",
            )
        body = _decoded(bytes(line.body), _Body, number, "body")
        if body.stream:
            raise BatchInputError(
                "unsupported_parameter",
                f"line {number}: a batch cannot stream; leave `stream` out",
                line=number,
                param="body.stream",
            )
        if (model or body.model) != body.model:
            raise BatchInputError(
                "mismatched_model",
                f"line {number} asks for the model {body.model[:_SHOWN]!r}, and those before it "
                f"for {model[:_SHOWN]!r}; a batch has one model",
                line=number,
                param="body.model",
            )
        model, endpoint = body.model, line.url
    if not lines_by_id:
        raise BatchInputError("empty_file", "the file has no line; a batch needs at least one")
    return BatchInput(len(lines_by_id), model, endpoint)


def spans(lines: Iterable[RawLine], *, most_lines: int, most_bytes: int) -> list[Span]:
    """Cut lines into runs of at most so many lines and, but for a single line, bytes."""
    found: list[Span] = []
    first = count = start = end = 0
    for position, raw in enumerate(lines):
        if count and (count == most_lines or raw.end_byte - start > most_bytes):
            found.append(Span(first, count, start, end))
            count = 0
        if not count:
            first, start = position, raw.start_byte
        count, end = count + 1, raw.end_byte
    if count:
        found.append(Span(first, count, start, end))
    return found


def _decoded(content: bytes, struct: type[_S], number: int, where: str) -> _S:
    try:
        content.decode()  # the decoder does not look into what it passes over
        return msgspec.json.decode(content, type=struct)
    except msgspec.ValidationError as error:
        place = f"line {number}{f', {where}' if where else ''}"
        raise BatchInputError(
            "invalid_line", f"{place}: {_in_words(error)}", line=number, param=where or None
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise BatchInputError(
            "invalid_json_line",
            f"line {number} is no {kind}; each line must be one JSON object in UTF-8",
            line=number,
        ) from None


def _in_words(error: msgspec.ValidationError) -> str:
    """Return msgspec's words, which name types and fields, and no values."""
    return str(error)[:200]
