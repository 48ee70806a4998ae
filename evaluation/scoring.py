"""What a set of answers is worth, by every metric of both versions, question by question.

Answers belong to questions by id. A question without an answer is never left out of a mean: it
scores 0 and is counted. What does *not* live here: the metrics (`metrics/`), intervals
(`uncertainty.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evaluation.metrics import legacy_v1, standard_v1
from evaluation.uncertainty import Estimate, estimate
from evaluation.vqa_items import Item

Values = Mapping[str, float]
HEADLINES = ("standard-v1/open recall", "standard-v1/closed accuracy")
"""What papers report of an open question, and of a closed one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question, what was answered, and what each metric says of it.

    Args:
        said: None: there is no answer.
        values: by the metric's name, `VERSION/NAME`; only those that apply.
    """

    item: Item
    said: str | None
    values: Values


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a set.

    Args:
        estimates: by the metric's name.
        num_unanswered: of the questions.
        unknown: ids that were answered and are no questions.
    """

    estimates: Mapping[str, Estimate]
    num_unanswered: int
    unknown: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def score(
    items: Sequence[Item],
    answers: Mapping[str, str],
    candidates: Sequence[str] | None = None,
) -> Scores:
    """Return the scores.

    Args:
        answers: texts by question id.
        candidates: for the candidate accuracy of `legacy-v1`; None leaves it out.
    """
    verdicts = tuple(_judge(item, answers.get(item.id), candidates) for item in items)
    known = {item.id for item in items}
    return Scores(
        estimates=estimates_of(verdicts),
        num_unanswered=sum(verdict.said is None for verdict in verdicts),
        unknown=tuple(name for name in answers if name not in known),
        verdicts=verdicts,
    )


def estimates_of(verdicts: Iterable[Verdict]) -> dict[str, Estimate]:
    """Return the mean of each metric over the questions that it applies to."""
    values: dict[str, list[float]] = {}
    images: dict[str, list[str]] = {}
    for verdict in verdicts:
        for name, value in verdict.values.items():
            values.setdefault(name, []).append(value)
            images.setdefault(name, []).append(image_of(verdict.item))
    return {name: estimate(values[name], images[name]) for name in values}


def headline_value(item: Item, said: str | None) -> float:
    """Return what papers report of a question: closed accuracy or open recall (`standard-v1`)."""
    if said is None:
        return 0.0
    if item.is_closed:
        return standard_v1.closed_accuracy(item.reference, said)
    return standard_v1.overlap(item.reference, said).recall


def image_of(item: Item) -> str:
    """Return what a question's errors go together by; one without an image stands alone."""
    return item.image if item.image is not None else f"question {item.id}"


def _judge(item: Item, said: str | None, candidates: Sequence[str] | None) -> Verdict:
    values = (
        _closed(item.reference, said or "")
        if item.is_closed
        else _open(item.reference, said or "", candidates)
    )
    if said is None:  # an empty reference would be found in an empty answer
        values = dict.fromkeys(values, 0.0)
    return Verdict(item, said, values)


def _open(reference: str, said: str, candidates: Sequence[str] | None) -> dict[str, float]:
    old, new = legacy_v1.overlap(reference, said), standard_v1.overlap(reference, said)
    values = {
        "legacy-v1/open exact match": legacy_v1.exact_match(reference, said),
        "legacy-v1/open precision": old.precision,
        "legacy-v1/open recall": old.recall,
        "legacy-v1/open f1": old.f1,
        **{f"legacy-v1/open {k}": v for k, v in legacy_v1.bleu(reference, said).items()},
        "legacy-v1/open substring accuracy": legacy_v1.closed_by_substring(reference, said),
    }
    if candidates is not None:
        accuracy = legacy_v1.open_by_candidates(reference, said, candidates)
        values["legacy-v1/open candidate accuracy"] = accuracy
    return values | {
        "standard-v1/open exact match": standard_v1.exact_match(reference, said),
        "standard-v1/open precision": new.precision,
        "standard-v1/open recall": new.recall,
        "standard-v1/open f1": new.f1,
        "standard-v1/open bleu": standard_v1.bleu(reference, said),
    }


def _closed(reference: str, said: str) -> dict[str, float]:
    return {
        "legacy-v1/closed accuracy (run_eval)": legacy_v1.closed_by_words_of_both(reference, said),
        "legacy-v1/closed accuracy (run_eval_batch)": legacy_v1.closed_by_substring(
            reference, said
        ),
        "legacy-v1/closed recall": legacy_v1.overlap(reference, said).recall,
        "standard-v1/closed accuracy": standard_v1.closed_accuracy(reference, said),
    }
