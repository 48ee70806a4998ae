"""Questions with right answers about what is true of an image.

A closed question asks about the true value or, as often, about a wrong one. What does *not* live
here: which questions are asked of which image (`vqa.py`, `dialogues.py`) and their JSON
(`records.py`).
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from datagen.phantoms.captions import say_count
from datagen.phantoms.facts import Facts, Scan
from datagen.phantoms.topics import PICTURE_TOPICS, SCAN_TOPICS, Topic


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answers.

    Args:
        topic: the `question_type`.
        answer: short: a value, "yes" or "no".
        sentence: the long answer; a closed one's has the evidence first and the verdict last.
    """

    topic: str
    is_closed: bool
    text: str
    answer: str
    sentence: str


def topics_of(facts: Facts) -> tuple[Topic, ...]:
    """Return what may be asked about an image's world, whether or not it applies to the image."""
    return SCAN_TOPICS if isinstance(facts, Scan) else PICTURE_TOPICS


def ask_open(topic: Topic, facts: Facts, form: int = 0) -> Question:
    """Ask for a value.

    Args:
        form: which of the topic's wordings, counted round.
    """
    value = facts.attributes[topic.attribute]
    text = topic.open_forms[form % len(topic.open_forms)]
    sentence = f"{_statement(topic, facts)}."
    return Question(topic.name, is_closed=False, text=text, answer=value, sentence=sentence)


def ask_closed(topic: Topic, facts: Facts, rng: np.random.Generator, form: int = 0) -> Question:
    """Ask whether a value is so; a coin decides whether it is.

    Whether there are spots is asked as it is: the answer is a matter of which images are asked.

    Args:
        form: which of the topic's wordings, counted round.
    """
    true = facts.attributes[topic.attribute]
    if topic.attribute == "present" or rng.random() < 0.5:
        return _ask_whether(topic, facts, true, form)
    return _ask_whether(topic, facts, _draw_wrong(topic, true, rng), form)


def ask_closed_pair(topic: Topic, facts: Facts, rng: np.random.Generator) -> list[Question]:
    """Ask whether the true value is so, and whether a wrong one is: one word tells yes from no.

    Whether there are spots is asked alone.
    """
    true = facts.attributes[topic.attribute]
    asked = [true] if topic.attribute == "present" else [true, _draw_wrong(topic, true, rng)]
    return [_ask_whether(topic, facts, value) for value in asked]


def _ask_whether(topic: Topic, facts: Facts, value: str, form: int = 0) -> Question:
    true = facts.attributes[topic.attribute]
    answer = true if topic.attribute == "present" else ("yes" if value == true else "no")
    text = topic.closed_forms[form % len(topic.closed_forms)].format(phrase=topic.phrase(value))
    sentence = f"{_statement(topic, facts)}, so {answer}."
    return Question(topic.name, is_closed=True, text=text, answer=answer, sentence=sentence)


def _draw_wrong(topic: Topic, true: str, rng: np.random.Generator) -> str:
    others = [value for value in topic.values if value != true]
    limits = list(accumulate(topic.wrong_weights.get(value, 1.0) for value in others))
    return others[bisect_right(limits, rng.random() * limits[-1])]


def _statement(topic: Topic, facts: Facts) -> str:
    attributes = facts.attributes
    noun = "lesion" if isinstance(facts, Scan) else "spot"
    return topic.statement.format(
        phrase=topic.phrase(attributes[topic.attribute]),
        they="It is" if attributes["count"] == "one" else "They are",
        there=say_count(attributes["count"], noun),
    )
