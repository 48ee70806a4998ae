"""A question of a public set as one item of LLaVA-Med's layout.

What does *not* live here: the public formats (`vqa_rad.py`, `slake.py`, `pathvqa.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_MARKER = "<image>"


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image of the original.

    Args:
        name: in the folder of images that is written.
        content: its file, or the file's bytes.
    """

    name: str
    content: Path | bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A question.

    Args:
        kind: what the original calls its type of question.
    """

    id: str
    image: SourceImage
    question: str
    answer: str
    is_closed: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Split:
    """Questions of one split, as they stand in the original."""

    name: str
    asked: Iterable[Asked]


def record_of(asked: Asked) -> Mapping[str, object]:
    """Return the item."""
    return {
        "id": asked.id,
        "image": asked.image.name,
        "answer_type": "CLOSED" if asked.is_closed else "OPEN",
        "question_type": asked.kind,
        "conversations": [
            {"from": "human", "value": f"{asked.question}\n{_MARKER}"},
            {"from": "gpt", "value": asked.answer},
        ],
    }
