"""What is counted of a record: its rounds of question and answer, its domains, its image.

Two shapes: training items (`conversations`), and what a teacher wrote (`result`: a text in blocks
that begin with "User:" or "Assistant:"). What does *not* live here: counting (`counting.py`).
"""

import re
from dataclasses import dataclass

from datagen.errors import DataError
from datagen.figures import domains_of
from datagen.records import Found, Record
from modeling.conversations import Conversation, ConversationError, parse_item

_BLOCK = re.compile(r"^[ \t]*(?:\*\*)?(User|Assistant):(?:\*\*)?[ \t]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Said:
    """One turn; `is_question`: the human's."""

    is_question: bool
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One conversation.

    Args:
        image: as the record names it; nothing has been checked.
    """

    name: str
    image: str | None
    domains: tuple[str, ...]
    turns: tuple[Said, ...]

    @property
    def num_rounds(self) -> int:
        """How many answers it has."""
        return sum(not turn.is_question for turn in self.turns)


def item_of(found: Found) -> Item:
    """Return the item of a record; raises DataError, whose text is a kind of problem."""
    record = found.record
    turns = _said(record)
    name, image = record.get("id", record.get("pair_id")), record.get("image")
    if image is None and "result" in record and isinstance(name, str):
        image = f"{name}.jpg"  # as LLaVA-Med names the image of a figure (docs/llava-med.md)
    return Item(
        name=str(name) if isinstance(name, str | int) else f"number {found.number}",
        image=image if isinstance(image, str) else None,
        domains=domains_of(record.get("domain"), found.group),
        turns=turns,
    )


def _said(record: Record) -> tuple[Said, ...]:
    if "conversations" in record or "conversatons" in record:
        try:
            return _of_conversation(parse_item(record))
        except ConversationError as error:
            raise DataError("turns that cannot be read") from error
    if "result" not in record:
        raise DataError("no conversations and no result")
    result = record["result"]
    if not isinstance(result, str):
        raise DataError("result is no text")
    if not (turns := _of_blocks(result)):
        raise DataError("result has no User: and Assistant: blocks")
    return turns


def _of_conversation(conversation: Conversation) -> tuple[Said, ...]:
    return tuple(Said(turn.role == "user", turn.text.strip()) for turn in conversation.turns)


def _of_blocks(text: str) -> tuple[Said, ...]:
    """Return the turns of "User: ... Assistant: ..."; what stands before the first is left out."""
    _, *parts = _BLOCK.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Said(who == "User", said.strip()) for who, said in pairs if said.strip())
