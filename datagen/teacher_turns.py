"""What a teacher wrote about a figure, in the two forms that generate writes: turns, and a text.

One reader for all data tools: what one of them takes for a conversation, the others do. What does
*not* live here: training items (`modeling/conversations.py`), and what turns are worth.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

Pair = tuple[str, str]
"""A question and its answer."""

# Only at the beginning of a line: the words themselves may stand in an answer. Teachers like to
# set the names in bold type. It begins with a character, since that is looked for fast.
_SPEAKER = re.compile(r"\n[ \t]*(?:\*\*)?(User|Assistant)(?:\*\*)?[ \t]*:(?:\*\*)?")


class TurnsError(Exception):
    """A record is no teacher's conversation; the text says why and quotes nothing."""


def written_by_teacher(record: Mapping[str, Any]) -> list[Pair] | str:
    """Return a record's turns where it has some, or else its text; raises TurnsError."""
    turns, result = record.get("turns"), record.get("result")
    if isinstance(turns, list) and turns:
        return [_pair_of(turn) for turn in cast("list[object]", turns)]
    if isinstance(result, str):
        return result
    raise TurnsError("no conversations, no turns and no result")


def speakers_of(result: str) -> list[str]:
    """Return "User" or "Assistant" and what was said, by turns; nothing of what stands before."""
    return _SPEAKER.split(f"\n{result}")[1:]


def _pair_of(turn: object) -> Pair:
    if not isinstance(turn, Mapping):
        raise TurnsError("turns that cannot be read")
    sides = cast("Mapping[str, object]", turn)
    question, answer = sides.get("question"), sides.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        raise TurnsError("turns that cannot be read")
    return question, answer
