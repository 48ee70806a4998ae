"""The medical chat benchmark's questions, in the format of LLaVA-Med's file.

A line has `question_id`, `image`, `text` (which ends with the image's marker), `gpt4_answer` (the
reference, written by a model that read caption and mentions), `fig_caption`, `in_text_mention`,
`domain` (a flag for each) and `type`. What does *not* live here: judging (`judging/`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from evaluation.errors import EvaluationError
from evaluation.json_files import records_of
from evaluation.vqa_items import Item

DOMAINS = ("chest_xray", "mri", "histology", "gross", "ct_scan")
"""In the order in which `legacy-v1` looks for a question's only domain."""
TYPES = ("conversation", "detailed_description")
_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class ChatItem:
    """A question about a figure.

    Args:
        question: without the image's marker.
        reference: what the judge gets as the other answer.
        caption: of the figure.
        mentions: sentences of the article that speak of it.
        domains: all that it belongs to, in the order of `DOMAINS`.
    """

    id: str
    image: str
    question: str
    reference: str
    caption: str
    mentions: tuple[str, ...]
    domains: tuple[str, ...]
    type: str

    @property
    def asked(self) -> Item:
        """The question as it is put to a model."""
        return Item(
            id=self.id,
            image=self.image,
            is_closed=False,
            kind=self.type,
            question=self.question,
            reference=self.reference,
        )


def read_chat_items(file: Path) -> list[ChatItem]:
    """Return the questions of a file, in their order.

    Raises:
        EvaluationError: no record, one of another shape, or an id that stands twice.
    """
    items = [_item(record, f"{file}: record {number}") for number, record in records_of(file)]
    if not items:
        raise EvaluationError(f"{file} holds no question")
    if len({item.id for item in items}) < len(items):
        raise EvaluationError(f"{file} has two questions of the same question_id")
    return items


def is_chat_file(file: Path) -> bool:
    """Whether a file's first record is such a question; raises EvaluationError."""
    return any("gpt4_answer" in first for _, first in itertools.islice(records_of(file), 1))


def _item(record: Mapping[str, object], place: str) -> ChatItem:
    texts: dict[str, str] = {}
    for name in ("image", "text", "gpt4_answer", "fig_caption", "type"):
        value = record.get(name)
        if not isinstance(value, str):
            raise EvaluationError(f"{place} has no {name}")
        texts[name] = value
    if "question_id" not in record:
        raise EvaluationError(f"{place} has no question_id")
    if texts["type"] not in TYPES:
        raise EvaluationError(f"{place}: type {texts['type']!r}; allowed are {', '.join(TYPES)}")
    return ChatItem(
        id=str(record["question_id"]),
        image=texts["image"],
        question=texts["text"].replace(_MARKER, "").strip(),
        reference=texts["gpt4_answer"].strip(),
        caption=texts["fig_caption"].strip(),
        mentions=_mentions(record.get("in_text_mention"), place),
        domains=_domains(record.get("domain"), place),
        type=texts["type"],
    )


def _mentions(value: object, place: str) -> tuple[str, ...]:
    """Return sentences; a file has texts, or objects with `tokens`, or null."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise EvaluationError(f"{place}: in_text_mention is no list")
    found: list[str] = []
    for mention in cast("Sequence[object]", value):
        tokens = (
            cast("Mapping[str, object]", mention).get("tokens")
            if isinstance(mention, dict)
            else mention
        )
        if not isinstance(tokens, str):
            raise EvaluationError(f"{place}: in_text_mention holds no text")
        found.append(tokens.strip())
    return tuple(found)


def _domains(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, dict):
        raise EvaluationError(f"{place}: domain is no object of flags")
    flags = cast("Mapping[str, object]", value)
    return tuple(name for name in DOMAINS if flags.get(name) is True)
