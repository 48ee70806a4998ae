"""Dialogues for instruction tuning, and texts without an image.

What does *not* live here: questions (`questions.py`) and their JSON (`records.py`).
"""

from dataclasses import dataclass

import numpy as np

from datagen.phantoms.captions import DESCRIBE, caption
from datagen.phantoms.facts import Facts, Scan
from datagen.phantoms.questions import Question, ask_closed, ask_open, topics_of

_QUESTIONS = 3
_DESCRIBED_SHARE = 0.5
_NOTES_SHARE = 0.5
WRITE = "Write a description of this."


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked, and what is answered."""

    question: str
    answer: str


def alignment(facts: Facts, rng: np.random.Generator) -> Exchange:
    """Return a caption and what asks for it."""
    return Exchange(DESCRIBE[int(rng.integers(len(DESCRIBE)))], caption(facts))


def dialogue(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return three questions on different topics, answered in sentences, and often a caption.

    The caption comes last: before them, it would answer them without the image.
    """
    exchanges = [
        Exchange(question.text, question.sentence)
        for question in _draw_questions(facts, _QUESTIONS, rng)
    ]
    if rng.random() < _DESCRIBED_SHARE:
        exchanges.append(alignment(facts, rng))
    return exchanges


def text_only(scan: Scan, rng: np.random.Generator) -> Exchange:
    """Return a question about a caption that stands before it, or notes to be put into a caption.

    What a general-domain language model knows of medical words and can write with them, without
    having seen a scan. Were the second half not there, stage 1 could not say what it sees: the
    language model is frozen then.
    """
    if rng.random() < _NOTES_SHARE:
        notes = ", ".join(value for name, value in scan.attributes.items() if name != "present")
        return Exchange(f"{notes}\n{WRITE}", caption(scan))
    (question,) = _draw_questions(scan, 1, rng)
    return Exchange(f"{caption(scan)}\n{question.text}", question.answer)


def _draw_questions(facts: Facts, number: int, rng: np.random.Generator) -> list[Question]:
    """Draw questions of different topics; whether there are spots and how many is one of them."""
    attributes = facts.attributes
    about_count = "present" if rng.random() < 0.3 else "count"
    topics = [
        topic
        for topic in topics_of(facts)
        if topic.attribute in attributes
        and (topic.attribute not in {"present", "count"} or topic.attribute == about_count)
    ]
    questions: list[Question] = []
    order: list[int] = rng.permutation(len(topics)).tolist()
    for index in order[:number]:
        topic, form = topics[index], int(rng.integers(2))
        if not topic.open_forms or (topic.closed_forms and rng.random() < 0.5):
            questions.append(ask_closed(topic, facts, rng, form))
        else:
            questions.append(ask_open(topic, facts, form))
    return questions
