"""A teacher's raw text, `User: ...` and `Assistant: ...`, taken apart into turns.

What does *not* live here: what the turns are worth.
"""

from dataclasses import dataclass

from datagen.teacher_turns import Pair, speakers_of


@dataclass(slots=True)
class Parsed:
    """Turns in their order.

    Args:
        num_unpaired: questions without an answer, answers without a question.
    """

    pairs: list[Pair]
    num_unpaired: int = 0


def turns_of(result: str) -> Parsed:
    """Return the turns of a text; what stands before the first speaker is no turn."""
    pieces = speakers_of(result)
    parsed = Parsed([])
    asked: str | None = None
    for number in range(0, len(pieces), 2):
        text = pieces[number + 1].strip()
        if pieces[number] == "User":
            parsed.num_unpaired += asked is not None
            asked = text
        elif asked is None:
            parsed.num_unpaired += 1
        else:
            parsed.pairs.append((asked, text))
            asked = None
    parsed.num_unpaired += asked is not None
    return parsed


def turns_as_seed(result: str) -> Parsed:
    """Return the turns that LLaVA-Med's tool sees: split anywhere, exactly one reply in each."""
    parsed = Parsed([])
    for piece in result.split("User:")[1:]:
        sides = piece.split("Assistant:")
        if len(sides) == 2:
            parsed.pairs.append((sides[0].strip(), sides[1].strip()))
        else:
            parsed.num_unpaired += 1
    return parsed
