"""Questions with their references, and answers to them, in LLaVA-Med's file formats.

A set is a JSON list (or JSON lines) of records with `id`, `image`, `answer_type`, `question_type`
and a conversation of one question and its answer. Answers are JSON lines with `question_id` and
`text`. What does *not* live here: what the answers are worth (`scoring.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from evaluation.errors import EvaluationError
from evaluation.json_files import parse_json, read_bytes, records_of
from modeling.conversations import ConversationError, parse_item

_TYPES = {"OPEN": False, "CLOSED": True}


@dataclass(frozen=True, slots=True)
class Item:
    """A question.

    Args:
        id: as a text; files have integers and texts, and both name the same question.
        image: as the file names it; None: it shows none.
        kind: its `question_type`; empty where the file says none.
        question: without the image's marker.
    """

    id: str
    image: str | None
    is_closed: bool
    kind: str
    question: str
    reference: str


def read_items(file: Path) -> list[Item]:
    """Return the questions of a file, in their order.

    Raises:
        EvaluationError: no record, one of another shape, or an id that stands twice.
    """
    items = [_item(record, f"{file}: record {number}") for number, record in records_of(file)]
    if not items:
        raise EvaluationError(f"{file} holds no question")
    seen: dict[str, int] = {}
    for number, item in enumerate(items):
        if item.id in seen:
            raise EvaluationError(
                f"{file}: records {seen[item.id]} and {number} have the same id {item.id!r}; "
                "answers could not be told apart"
            )
        seen[item.id] = number
    return items


def read_answers(file: Path) -> dict[str, str]:
    """Return texts by question id.

    A last line that was torn off (the writer was killed) is left out; the same answer twice counts
    once.

    Raises:
        EvaluationError: another line cannot be read, or a question has two different answers.
    """
    answers: dict[str, str] = {}
    for number, record in records_of(file):
        place = f"{file}: line {number + 1}"
        if "question_id" not in record or not isinstance(record.get("text"), str):
            raise EvaluationError(f"{place} has no question_id and text")
        name, text = str(record["question_id"]), str(record["text"])
        if answers.setdefault(name, text) != text:
            raise EvaluationError(f"{place}: question {name!r} is answered twice, differently")
    return answers


def read_candidates(file: Path) -> tuple[str, ...]:
    """Return the answers that an open question may have: `{"0": [text or integer, ...]}`.

    Raises:
        EvaluationError: the file has another shape.
    """
    found = parse_json(read_bytes(file), str(file))
    answers = cast("Mapping[str, object]", found).get("0") if isinstance(found, dict) else None
    if not isinstance(answers, list) or not answers:
        raise EvaluationError(f'{file} is no list of candidates: it needs {{"0": [answer, ...]}}')
    return tuple(str(answer) for answer in cast("list[object]", answers))


def _item(record: Mapping[str, object], place: str) -> Item:
    try:
        turns = parse_item(record).turns
    except ConversationError as error:
        raise EvaluationError(f"{place}: {error}") from error
    if len(turns) != 2 or (turns[0].role, turns[1].role) != ("user", "assistant"):
        raise EvaluationError(f"{place} is no question with its answer: it has {len(turns)} turns")
    kind = record.get("answer_type")
    if kind not in _TYPES:
        raise EvaluationError(f"{place}: answer_type {kind!r}; allowed are OPEN and CLOSED")
    image = record.get("image")
    if "id" not in record or not isinstance(image, str | None):
        raise EvaluationError(f"{place} has no id, or an image that is no name")
    return Item(
        id=str(record["id"]),
        image=image,
        is_closed=_TYPES[str(kind)],
        kind=str(record.get("question_type", "")),
        question=turns[0].text.strip(),
        reference=turns[1].text.strip(),
    )
