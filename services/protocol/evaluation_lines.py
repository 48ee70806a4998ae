"""The lines of an evaluation's input: questions, each behind the image that it is about. Pure.

    {"type": "image", "name": "a.png", "sha256": "...", "url": "data:image/png;base64,..."}
    {"type": "item", "id": "1", "question": "...", "reference": "yes", "is_closed": true,
     "kind": "", "image": "a.png"}

An image stands once, right before its questions, so that a run of lines that begins with an image
can be done without the rest of the file. What does *not* live here: what answers are worth
(`evaluation`).
"""

from collections.abc import Iterable

import msgspec

from services.protocol.batch_lines import BatchInputError, RawLine, Span
from services.protocol.jobs import MAX_LINES

_SHOWN = 40
_FIRST_LINES = 8


class EvaluationImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="image"):
    """An image; all questions up to the next one are about it.

    Args:
        sha256: hex, of its file.
        url: a data URL.
        converted_by: what made the image of a DICOM or NIfTI file; empty: it is sent as it is.
    """

    name: str
    sha256: str
    url: str
    converted_by: str = ""


class EvaluationItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="item"):
    """A question, with its reference answer; see `evaluation.vqa_items.Item`.

    Args:
        image: the name of the image before it; None: it shows none.
    """

    id: str
    question: str
    reference: str
    is_closed: bool
    kind: str = ""
    image: str | None = None


EvaluationLine = EvaluationImage | EvaluationItem

_decoder = msgspec.json.Decoder(EvaluationLine)


def read_evaluation_line(content: bytes, number: int) -> EvaluationLine:
    """Read a line; raises BatchInputError."""
    try:
        return _decoder.decode(content)
    except msgspec.ValidationError as error:
        message = f"line {number}: {str(error)[:200]}"
        raise BatchInputError("invalid_line", message, line=number) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = f"line {number} is no JSON; each line must be one JSON object in UTF-8"
        raise BatchInputError("invalid_json_line", message, line=number) from None


def check_evaluation_lines(lines: Iterable[RawLine]) -> int:
    """Check a whole file; returns how many questions it has; raises BatchInputError."""
    ids: set[str] = set()
    images: set[str] = set()
    shown: str | None = None
    for raw in lines:
        line = read_evaluation_line(raw.content, raw.number)
        if isinstance(line, EvaluationImage):
            _check_image(line, images, raw.number)
            shown = line.name
            continue
        if line.id in ids:
            raise BatchInputError(
                "duplicate_id",
                f"line {raw.number}: the id {line.id[:_SHOWN]!r} is there twice",
                line=raw.number,
            )
        if line.image is not None and line.image != shown:
            raise BatchInputError(
                "unknown_image",
                f"line {raw.number} is about an image that does not stand right before it",
                line=raw.number,
            )
        shown = line.image  # behind a question without one, an image has to stand again
        ids.add(line.id)
        if len(ids) > MAX_LINES:
            message = f"there are more than the {MAX_LINES} questions allowed"
            raise BatchInputError("too_many_lines", message, line=raw.number)
    if not ids:
        raise BatchInputError("empty_file", "the file has no question")
    return len(ids)


def _check_image(line: EvaluationImage, images: set[str], number: int) -> None:
    if line.name in images:
        message = f"line {number}: the image {line.name[:_SHOWN]!r} is there twice"
        raise BatchInputError("duplicate_image", message, line=number)
    if not line.url.startswith("data:image/"):
        message = f"line {number}: an image's url must be a data URL"
        raise BatchInputError("invalid_image", message, line=number)
    images.add(line.name)


def evaluation_spans(lines: Iterable[RawLine], *, most_lines: int, most_bytes: int) -> list[Span]:
    """Cut before images, and before questions without one, once so many questions or bytes came.

    The first spans are smaller: scores are told after each one, so that those of a small benchmark
    move, too. Each is at most half of all before it: the number of scored questions rises by half,
    and a large benchmark soon has spans that fill the slots of whoever does them.
    """
    found: list[Span] = []
    first = count = start = end = 0
    for raw in lines:
        line = read_evaluation_line(raw.content, raw.number)
        is_image = isinstance(line, EvaluationImage)
        may_cut = is_image or line.image is None
        most = min(most_lines, max(_FIRST_LINES, first // 2))
        if count and may_cut and (count >= most or raw.end_byte - start > most_bytes):
            found.append(Span(first, count, start, end))
            first, count, start = first + count, 0, raw.start_byte
        count += not is_image
        end = raw.end_byte
    if count:
        found.append(Span(first, count, start, end))
    return found
