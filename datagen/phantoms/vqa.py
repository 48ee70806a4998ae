"""Which questions are asked of an image, and sets of them that cannot be answered unseen.

Over many images a yes is as likely as a no to every closed question. In a finite set that is so
only nearly; `balance_closed` makes it exact, and comes last: whoever draws from a balanced set
unbalances it. What does *not* live here: words (`topics.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from datagen.phantoms.facts import Facts
from datagen.phantoms.questions import (
    Question,
    ask_closed,
    ask_closed_pair,
    ask_open,
    topics_of,
)
from datagen.phantoms.topics import Topic


@dataclass(frozen=True, slots=True)
class Shares:
    """In how many of the images that it applies to a question is asked, by topic.

    A closed question about `present` has its share of the images with spots; those without, half
    as many, are asked twice as often, so that half of the answers are no.

    Args:
        in_pairs: a closed question about the true value goes with one about a wrong one.
    """

    open_topics: Mapping[str, float]
    closed_topics: Mapping[str, float]
    in_pairs: bool = False


SCAN_TRAINING = Shares(
    {"modality": 0.1, "organ": 0.2, "count": 0.5, "side": 0.3, "location": 0.25, "size": 0.3},
    {"modality": 0.5, "present": 0.35, "count": 0.55, "side": 0.5, "location": 0.5, "size": 0.45},
    in_pairs=True,
)
"""To compare what is seen with what is asked is learnt last. Two questions about one image whose
answers one word decides teach it several times as fast as questions of a coin. Counting is hard
either way, so it is asked about most."""

SCAN_EXAMINATION = Shares(
    {"modality": 0.24, "organ": 0.24, "count": 0.24, "side": 0.36, "location": 0.36, "size": 0.36},
    {"modality": 0.3, "present": 0.2, "count": 0.3, "side": 0.4, "location": 0.38, "size": 0.38},
)
"""Each topic about as often as the others, once the set is balanced."""

PICTURE_TRAINING = Shares(
    {
        "background": 0.4, "background_colour": 0.4, "shape": 0.4, "shape_colour": 0.3,
        "spot_colour": 0.2, "count": 1.0, "side": 0.5, "location": 0.5, "size": 0.6,
    },
    {
        "background": 0.25, "shape": 0.25, "present": 0.35, "count": 0.9, "side": 0.5,
        "location": 0.4, "size": 0.5,
    },
)  # fmt: skip

PICTURE_EXAMINATION = Shares(
    {
        "background": 0.2, "background_colour": 0.2, "shape": 0.24, "shape_colour": 0.24,
        "spot_colour": 0.3, "count": 0.2, "side": 0.3, "location": 0.3, "size": 0.3,
    },
    {
        "background": 0.25, "shape": 0.3, "present": 0.18, "count": 0.25, "side": 0.35,
        "location": 0.33, "size": 0.33,
    },
)  # fmt: skip


def ask_about(facts: Facts, shares: Shares, rng: np.random.Generator) -> list[Question]:
    """Return questions about an image, in the topics' order, each in its first wording."""
    attributes = facts.attributes
    questions: list[Question] = []
    ask = ask_closed_pair if shares.in_pairs else _ask_closed_one
    for topic in topics_of(facts):
        if topic.attribute not in attributes:
            continue
        if topic.open_forms and rng.random() < shares.open_topics[topic.name]:
            questions.append(ask_open(topic, facts))
        share = shares.closed_topics.get(topic.name, 0.0)
        if topic.attribute == "present" and not facts.spots.centres_px:
            share *= 2
        if topic.closed_forms and rng.random() < share:
            questions += ask(topic, facts, rng)
    return questions


def _ask_closed_one(topic: Topic, facts: Facts, rng: np.random.Generator) -> list[Question]:
    return [ask_closed(topic, facts, rng)]


_Asked = TypeVar("_Asked")


def balance_closed(
    asked: Sequence[_Asked], question_of: Callable[[_Asked], Question], rng: np.random.Generator
) -> list[_Asked]:
    """Drop closed questions at random until each text has as many yes as no; keep the order."""
    by_text: defaultdict[str, dict[str, list[int]]] = defaultdict(lambda: {"yes": [], "no": []})
    for index, each in enumerate(asked):
        question = question_of(each)
        if question.is_closed:
            by_text[question.text][question.answer].append(index)
    dropped: set[int] = set()
    for answers in by_text.values():
        keep = min(map(len, answers.values()))
        for indices in answers.values():
            dropped.update(int(index) for index in rng.permutation(indices)[keep:])
    return [each for index, each in enumerate(asked) if index not in dropped]


@dataclass(frozen=True, slots=True)
class Guessing:
    """Shares of right answers of one who knows a set's answers by heart, but sees no image.

    None: there are no such questions. Of closed questions exactly a half is right in a balanced
    set; of open ones, the share of each question's most frequent answer.
    """

    closed: float | None
    open: float | None


def guess_unseen(questions: Iterable[Question]) -> Guessing:
    """Return how well a set is answered by each text's most frequent answer in that very set."""
    answers: dict[bool, defaultdict[str, Counter[str]]] = {
        True: defaultdict(Counter),
        False: defaultdict(Counter),
    }
    for question in questions:
        answers[question.is_closed][question.text][question.answer] += 1
    return Guessing(_share_of_best(answers[True]), _share_of_best(answers[False]))


def _share_of_best(answers: Mapping[str, Counter[str]]) -> float | None:
    right = sum(max(counts.values()) for counts in answers.values())
    total = sum(counts.total() for counts in answers.values())
    return right / total if total else None
