"""The corrected metrics (`standard-v1`): what the names of LLaVA-Med's metrics say.

Exact match and token overlap as in SQuAD (Rajpurkar et al., 2016, arXiv:1606.05250, section 6.1);
BLEU (Papineni et al., 2002) with smoothing, since answers are shorter than four words. What does
*not* live here: means over a set (`scoring.py`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from evaluation.metrics.legacy_v1 import Overlap
from evaluation.metrics.nltk_bleu import sentence_bleu
from evaluation.metrics.standard_text import words_of

NAME = "standard-v1"
Verdict = Literal["yes", "no"]
_MOST_ORDERS = 4


def exact_match(reference: str, answer: str) -> float:
    """Return 1 where both are the same words in the same order, else 0."""
    return float(words_of(reference) == words_of(answer))


def overlap(reference: str, answer: str) -> Overlap:
    """Return precision, recall and F1 of words, each counted at most as often as both have it."""
    right, said = Counter(words_of(reference)), Counter(words_of(answer))
    hits = (right & said).total()
    if not hits:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = hits / said.total(), hits / right.total()
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def bleu(reference: str, answer: str) -> float:
    """Return smoothed sentence BLEU, of runs of up to 4 words, or of all that the reference has."""
    right, said = words_of(reference), words_of(answer)
    if not right or not said:
        return 0.0
    orders = min(_MOST_ORDERS, len(right))
    return sentence_bleu(right, said, (1 / orders,) * orders, is_smoothed=True)


def verdict_of(answer: str) -> Verdict | None:
    """Return which of the words yes and no an answer says first; None: neither."""
    for word in words_of(answer):
        if word == "yes" or word == "no":  # noqa: PLR1714 - so the type is known
            return word
    return None


def closed_accuracy(reference: str, answer: str) -> float:
    """Return 1 where a closed question is answered rightly, else 0.

    Where the reference is yes or no, the first of these words in the answer is its verdict; else
    the reference's words have to stand in the answer, in a row.
    """
    right = words_of(reference)
    if right in {("yes",), ("no",)}:
        return float(verdict_of(answer) == right[0])
    return float(_stands_in(right, words_of(answer)))


def _stands_in(part: Sequence[str], whole: Sequence[str]) -> bool:
    places = range(len(whole) - len(part) + 1)
    return bool(part) and any(whole[at : at + len(part)] == part for at in places)
