"""The metrics behind LLaVA-Med's published VQA tables (`legacy-v1`), bit for bit.

Defined in LLaVA-Med v1.0's evaluation scripts; none of them is what its name says, and they are
here so that a run can be put beside the published numbers. `Pair` holds what each script
normalises before it calls a metric; each metric normalises again. What does *not* live here: the
corrected metrics (`standard_v1.py`) and means over a set (`scoring.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.metrics.legacy_text import bag_of, normalise
from evaluation.metrics.nltk_bleu import sentence_bleu

NAME = "legacy-v1"
_BLEU_WEIGHTS = {
    "bleu": (0.25, 0.25, 0.25, 0.25),
    "bleu_1": (1.0, 0.0, 0.0, 0.0),
    "bleu_2": (0.0, 1.0, 0.0, 0.0),
    "bleu_3": (0.0, 0.0, 1.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of the words of an answer with those of its reference; each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def exact_match(reference: str, answer: str) -> float:
    """Return the reference's distinct words that the answer has, over all words of the answer."""
    said, right = bag_of(normalise(answer)), bag_of(normalise(reference))
    return sum(word in said for word in right) / said.total() if said else 0.0


def overlap(reference: str, answer: str) -> Overlap:
    """Return precision, recall and F1 in which a word said again counts again."""
    said, right = bag_of(normalise(answer)), bag_of(normalise(reference))
    hits = sum(count for word, count in said.items() if word in right)
    if not hits:
        return Overlap(0.0, 0.0, 0.0)
    missed = sum(count for word, count in right.items() if word not in said)
    precision, recall = hits / said.total(), hits / (hits + missed)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def bleu(reference: str, answer: str) -> dict[str, float]:
    """Return NLTK's sentence BLEU without smoothing: `bleu` to 4-grams, the others of one order."""
    right, said = normalise(reference).split(), normalise(answer).split()
    return {name: sentence_bleu(right, said, weights) for name, weights in _BLEU_WEIGHTS.items()}


def closed_by_words_of_both(reference: str, answer: str) -> float:
    """Return `run_eval`'s verdict: the answer holds "yes" or "no", and the reference; as letters.

    A closed question that is not answered by yes or no is wrong but by luck.
    """
    said, right = normalise(answer), normalise(reference)
    return float(("yes" in said or "no" in said) and right in said)


def closed_by_substring(reference: str, answer: str) -> float:
    """Return `run_eval_batch`'s verdict: the answer's letters hold the reference's.

    Very likely the one behind the tables: "no" is found in "normal" and in "know".
    """
    return float(normalise(reference) in normalise(answer))


def open_by_candidates(reference: str, answer: str, candidates: Sequence[str]) -> float:
    """Return 1 where the candidate most like the answer is the reference, else 0.

    Args:
        candidates: answers of the training set; of equally similar ones the first is taken.
    """
    said = set(bag_of(normalise(answer)))
    best, most = "", -1.0
    for candidate in candidates:
        words = set(bag_of(normalise(candidate)))
        likeness = len(said & words) / len(words) if words else 0.0
        if likeness > most:
            best, most = candidate, likeness
    return float(normalise(best) == normalise(reference))
