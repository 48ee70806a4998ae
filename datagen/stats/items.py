"""What is counted of a record: its rounds of question and answer, its domains, its image.

Two shapes: training items (`conversations`), and what a teacher wrote. What does *not* live here:
reading what a teacher wrote (`datagen/teacher_turns.py`), and counting (`counting.py`).
"""

from dataclasses import dataclass

from datagen.errors import DataError
from datagen.figures import domains_of
from datagen.records import Found, Record
from datagen.teacher_turns import Pair, TurnsError, speakers_of, written_by_teacher
from modeling.conversations import Conversation, ConversationError, parse_item


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
    if image is None and not _is_training_item(record) and isinstance(name, str):
        image = f"{name}.jpg"  # as LLaVA-Med names the image of a figure (docs/llava-med.md)
    return Item(
        name=str(name) if isinstance(name, str | int) else f"number {found.number}",
        image=image if isinstance(image, str) else None,
        domains=domains_of(record.get("domain"), found.group),
        turns=turns,
    )


def _said(record: Record) -> tuple[Said, ...]:
    if _is_training_item(record):
        try:
            return _of_conversation(parse_item(record))
        except ConversationError as error:
            raise DataError("turns that cannot be read") from error
    try:
        written = written_by_teacher(record)
    except TurnsError as error:
        raise DataError(str(error)) from error
    if not isinstance(written, str):
        return _of_pairs(written)
    if not (turns := _of_blocks(written)):
        raise DataError("result has no User: and Assistant: blocks")
    return turns


def _is_training_item(record: Record) -> bool:
    return record.get("conversations", record.get("conversatons")) is not None


def _of_conversation(conversation: Conversation) -> tuple[Said, ...]:
    return tuple(Said(turn.role == "user", turn.text.strip()) for turn in conversation.turns)


def _of_pairs(pairs: list[Pair]) -> tuple[Said, ...]:
    turns: list[Said] = []
    for question, answer in pairs:
        turns += (
            Said(is_question=True, text=question.strip()),
            Said(is_question=False, text=answer.strip()),
        )
    return tuple(turn for turn in turns if turn.text)


def _of_blocks(text: str) -> tuple[Said, ...]:
    parts = speakers_of(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Said(who == "User", said.strip()) for who, said in pairs if said.strip())
