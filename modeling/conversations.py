"""A conversation as training data and servers have it, and the reader of LLaVA-Med's data items.

What does *not* live here: how a conversation is written for a model (`conversation_templates.py`)
and its tokens (`prompt.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

IMAGE_MARKER = "<image>"
"""Stands for an image in LLaVA's data files (docs/llava-med.md); it is no token."""

# "conversatons" occurs in published files: converters of the first release wrote it.
_CONVERSATION_KEYS = ("conversations", "conversatons")
Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}


class ConversationError(ValueError):
    """A data item, or a conversation, that cannot be used; the message names the place."""


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """The place of one image in a text."""


Part = str | ImageSlot


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says, images where they stand.

    Args:
        role: `system` is for a tokenizer's own template alone; others have `Conversation.system`.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def num_images(self) -> int:
        """How many images it shows."""
        return sum(isinstance(part, ImageSlot) for part in self.parts)

    @property
    def text(self) -> str:
        """Its words, without images."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in their order.

    Args:
        system: None takes the template's own.
    """

    turns: tuple[Turn, ...]
    system: str | None = None

    @property
    def num_images(self) -> int:
        """How many images it shows."""
        return sum(turn.num_images for turn in self.turns)


def parse_item(item: Mapping[str, object]) -> Conversation:
    """Return the conversation of one item of LLaVA-Med's JSON.

    Its list may stand under `conversations` or under the misspelt `conversatons`; each turn is
    `{"from": "human" | "gpt", "value": text or integer}`. `<image>` stands anywhere in human turns.

    Raises:
        ConversationError: the item has another shape.
    """
    name = f"item {item.get('id')!r}"
    turns = next((item[key] for key in _CONVERSATION_KEYS if key in item), None)
    if not isinstance(turns, list) or not turns:
        raise ConversationError(f"{name} has no turns: `conversations` must be a list of them")
    return Conversation(tuple(_turns(name, turns)))


def drop_leading_answer(conversation: Conversation) -> tuple[Conversation, Turn | None]:
    """Return a conversation without a first turn of the assistant's, and that turn; None: has none.

    What LLaVA-Med v1.0's training did in silence in all versions but v0 (its code at commit
    b9a98a7). `parse_item` keeps the turn and templates refuse it, so nobody loses it unasked: count
    what this one drops.

    Raises:
        ConversationError: no turn is left.
    """
    first, *rest = conversation.turns
    if first.role != "assistant":
        return conversation, None
    if not rest:
        raise ConversationError("turn 0 is the assistant's and the only one; leave the item out")
    return Conversation(tuple(rest), conversation.system), first


def split_markers(text: str) -> tuple[Part, ...]:
    """Return a text with an `ImageSlot` for each `<image>` in it; empty texts are left out."""
    parts: list[Part] = []
    for index, piece in enumerate(text.split(IMAGE_MARKER)):
        if index:
            parts.append(ImageSlot())
        if piece:
            parts.append(piece)
    return tuple(parts)


def _turns(name: str, turns: list[object]) -> Iterator[Turn]:
    for index, turn in enumerate(turns):
        place = f"{name}, turn {index}"
        if not isinstance(turn, Mapping):
            raise ConversationError(f"{place} is no object with `from` and `value`")
        role = _ROLES.get(str(turn.get("from")))
        if role is None:
            raise ConversationError(f"{place} is from {turn.get('from')!r}; 'human' or 'gpt' speak")
        value = turn.get("value")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConversationError(f"{place} has no text; `value` must be a text or an integer")
        found = Turn(role, split_markers(str(value)))
        if role == "assistant" and found.num_images:
            raise ConversationError(f"{place} is an answer with {IMAGE_MARKER}; only humans show")
        yield found
