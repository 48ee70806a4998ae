"""Records in LLaVA-Med's own JSON (docs/llava-med.md), and lines of truth.

What does *not* live here: files (`writing.py`).
"""

from collections.abc import Mapping, Sequence

from datagen.phantoms.dialogues import Exchange
from datagen.phantoms.facts import Facts, Picture
from datagen.phantoms.questions import Question

Record = Mapping[str, object]

_IMAGE_MARKER = "<image>"


def conversation_record(name: str, exchanges: Sequence[Exchange], image: str | None) -> Record:
    """Return one item: `id`, `image` where there is one, and `conversations`."""
    turns: list[Mapping[str, str]] = []
    for index, exchange in enumerate(exchanges):
        shown = f"{_IMAGE_MARKER}\n" if image is not None and index == 0 else ""
        turns.append({"from": "human", "value": f"{shown}{exchange.question}"})
        turns.append({"from": "gpt", "value": exchange.answer})
    head: dict[str, object] = {"id": name}
    if image is not None:
        head["image"] = image
    return {**head, "conversations": turns}


def question_record(name: str, question: Question, image: str) -> Record:
    """Return one item of a VQA set: with `answer_type` and `question_type` too."""
    exchange = Exchange(question.text, question.answer)
    record = conversation_record(name, [exchange], image)
    answer_type = "CLOSED" if question.is_closed else "OPEN"
    return {**record, "answer_type": answer_type, "question_type": question.topic}


def truth_record(facts: Facts, image: str) -> Record:
    """Return all that is true of an image; null where an attribute does not apply."""
    spots = facts.spots
    if isinstance(facts, Picture):
        drawn: dict[str, object] = {
            "background": facts.background,
            "background_colour": facts.background_colour,
            "shape": facts.shape,
            "shape_colour": facts.shape_colour,
            "spot_colour": facts.spot_colour,
        }
    else:
        drawn = {"modality": facts.modality, "organ": facts.organ}
    return {
        "image": image,
        **drawn,
        "count": spots.count,
        "side": spots.side,
        "location": spots.location,
        "size": spots.size,
        "radius_px": round(spots.radius_px, 2),
        "centres_px": spots.centres_px,
    }
