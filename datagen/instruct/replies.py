"""What a reply is worth: a conversation, or why it is none.

Nothing is cleaned here, and no reply is mended; post-processing reads what is kept. What does *not*
live here: asking (`asking.py`).
"""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from datagen.instruct.examples import Turn
from datagen.instruct.prompts import as_text
from services.endpoint_client.client import Reply

_SPEAKER = re.compile(r"^[ \t]*(?:\*\*)?(User|Assistant)(?:\*\*)?:(?:\*\*)?[ \t]*", re.MULTILINE)
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


class UnusableError(Exception):
    """A reply that holds no conversation; the text is a short reason and quotes nothing.

    Args:
        cost: what it took all the same.
    """

    def __init__(self, reason: str, cost: float = 0.0) -> None:
        super().__init__(reason)
        self.cost = cost


@dataclass(frozen=True, slots=True)
class Conversation:
    """A usable reply.

    Args:
        text: in blocks of `User: ` and `Assistant: `; as the model wrote it, where it wrote text.
        turns: where the endpoint gave structured output.
    """

    text: str
    turns: tuple[Turn, ...] | None


def conversation_in(reply: Reply) -> Conversation:
    """Return what a reply holds; raises UnusableError."""
    if reply.finish_reason == "content_filter":
        raise UnusableError("content filter")
    if reply.is_refused:
        raise UnusableError("refused")
    text = reply.text.strip()
    if not text:
        raise UnusableError("empty")
    if reply.finish_reason == "length":
        raise UnusableError("cut off at --max-tokens")
    if turns := _turns_of_json(text):
        return Conversation(as_text(turns), turns)
    if not _has_a_round(text):
        raise UnusableError("no conversation")
    return Conversation(text, None)


def _turns_of_json(text: str) -> tuple[Turn, ...]:
    fenced = _FENCE.match(text)
    try:
        found = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return ()
    listed = cast("dict[str, Any]", found).get("turns") if isinstance(found, dict) else None
    turns: list[Turn] = []
    for each in cast("list[Any]", listed) if isinstance(listed, list) else []:
        fields = cast("dict[str, Any]", each) if isinstance(each, dict) else {}
        question, answer = fields.get("question"), fields.get("answer")
        if isinstance(question, str) and isinstance(answer, str):
            turns.append((question.strip(), answer.strip()))
    return tuple(turn for turn in turns if all(turn))


def _has_a_round(text: str) -> bool:
    """Whether a question has an answer behind it."""
    pieces = _SPEAKER.split(text)[1:]  # speaker, words, speaker, words...
    said = list(zip(pieces[::2], pieces[1::2], strict=True))
    return any(
        first[0] == "User" and second[0] == "Assistant" and first[1].strip() and second[1].strip()
        for first, second in pairwise(said)
    )
