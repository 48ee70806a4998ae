"""Counts of a stream of items, in memory that does not grow with it.

Verbs, domains, numbers of rounds and lengths are closed or capped; nouns are an open vocabulary and
kept up to a number of them. What does *not* live here: drawings (`drawing.py`), pages (`page.py`).
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from datagen.figures import DOMAINS
from datagen.stats.items import Item, Said
from datagen.stats.verb_noun import root_of

MOST_NOUNS = 200_000
"""Different pairs of verb and noun; others count as their verb's without a noun of its own."""
MOST_ROUNDS = 20
MOST_WORDS = 1_000
"""Longer texts count as so long, and more rounds as so many."""
NO_DOMAIN = "none named"
LABELS = {
    "chest_xray": "chest X-ray",
    "mri": "MRI",
    "histology": "histology",
    "gross": "gross pathology",
    "ct_scan": "CT scan",
}
"""Domains as a reader sees them."""
_SAMPLE_ROUNDS = 12
_SAMPLE_CHARS = 1_200


@dataclass(slots=True)
class Roots:
    """Root verbs and their nouns on one side of conversations."""

    verbs: Counter[str] = field(default_factory=Counter[str])
    nouns: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    num_texts: int = 0
    num_without_verb: int = 0
    num_nouns_over: int = 0

    def add(self, text: str) -> None:
        """Count a text's root."""
        self.num_texts += 1
        root = root_of(text)
        if root is None:
            self.num_without_verb += 1
            return
        self.verbs[root.verb] += 1
        if root.noun is None:
            return
        pair = (root.verb, root.noun[:40])
        if pair in self.nouns or len(self.nouns) < MOST_NOUNS:
            self.nouns[pair] += 1
        else:
            self.num_nouns_over += 1

    def most_common(self, num_verbs: int, num_nouns: int) -> list["VerbShare"]:
        """Return the most frequent verbs, each with its most frequent nouns."""
        chosen = sorted(self.verbs.items(), key=lambda pair: (-pair[1], pair[0]))[:num_verbs]
        by_verb: dict[str, list[tuple[str, int]]] = {verb: [] for verb, _ in chosen}
        for (verb, noun), number in self.nouns.items():
            if verb in by_verb:
                by_verb[verb].append((noun, number))
        for nouns in by_verb.values():
            nouns.sort(key=lambda pair: (-pair[1], pair[0]))
        return [
            VerbShare(verb, number, tuple(by_verb[verb][:num_nouns])) for verb, number in chosen
        ]


@dataclass(frozen=True, slots=True)
class VerbShare:
    """A root verb, how often it was found, and its most frequent nouns."""

    verb: str
    number: int
    nouns: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a whole number, capped; `total` and `most` are of what was capped not."""

    counts: Mapping[int, int]
    total: int
    most: int
    cap: int

    @property
    def number(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Their mean; 0 where there are none."""
        return self.total / self.number if self.number else 0.0

    def quantile(self, share: float) -> int:
        """Return the least value that so large a share does not exceed."""
        passed = 0
        for value in sorted(self.counts):
            passed += self.counts[value]
            if passed >= share * self.number:
                return value
        return 0


class Numbers:
    """Counts whole numbers."""

    def __init__(self, cap: int) -> None:
        self._counts: Counter[int] = Counter()
        self._cap, self._total, self._most = cap, 0, 0

    def add(self, value: int) -> None:
        """Count one."""
        self._counts[min(value, self._cap)] += 1
        self._total += value
        self._most = max(self._most, value)

    def histogram(self) -> Histogram:
        """Return what was counted."""
        return Histogram(dict(sorted(self._counts.items())), self._total, self._most, self._cap)


class Tally:
    """All that is counted of a stream of items.

    Args:
        num_samples: so many items, each with the same chance, are kept for a reader to see.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.instructions, self.answers = Roots(), Roots()
        self.rounds = Numbers(MOST_ROUNDS)
        self.question_words, self.answer_words = Numbers(MOST_WORDS), Numbers(MOST_WORDS)
        self.domains: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.num_items = self.num_with_image = self.num_with_several_domains = 0
        self._samples: list[tuple[int, Item]] = []
        self._num_samples = num_samples
        self._random = random.Random(seed)  # noqa: S311 - which samples are shown is no secret

    def add(self, item: Item) -> None:
        """Count an item."""
        self._keep_sample(item)
        self.num_items += 1
        self.num_with_image += item.image is not None
        self.num_with_several_domains += len(item.domains) > 1
        self.domains.update(item.domains or (NO_DOMAIN,))
        self.rounds.add(item.num_rounds)
        for turn in item.turns:
            roots, lengths = (
                (self.instructions, self.question_words)
                if turn.is_question
                else (self.answers, self.answer_words)
            )
            roots.add(turn.text)
            lengths.add(len(turn.text.split()))

    @property
    def samples(self) -> list[Item]:
        """The kept items, in the order of the file."""
        return [item for _, item in sorted(self._samples, key=lambda pair: pair[0])]

    def domain_counts(self) -> list[tuple[str, int]]:
        """Return each domain's number of items, in LLaVA-Med's order; the last: none named."""
        return [(name, self.domains[name]) for name in (*DOMAINS, NO_DOMAIN)]

    def _keep_sample(self, item: Item) -> None:
        """Keep it with the chance that every item has (Vitter's algorithm R)."""
        if len(self._samples) < self._num_samples:
            self._samples.append((self.num_items, _cut(item)))
            return
        place = self._random.randrange(self.num_items + 1)
        if place < self._num_samples:
            self._samples[place] = (self.num_items, _cut(item))


def _cut(item: Item) -> Item:
    """Return an item as it is shown: samples are kept, and one may be of any length."""
    turns = tuple(
        turn
        if len(turn.text) <= _SAMPLE_CHARS
        else Said(turn.is_question, f"{turn.text[:_SAMPLE_CHARS]} [...]")
        for turn in item.turns[: 2 * _SAMPLE_ROUNDS]
    )
    if len(item.turns) > len(turns):
        turns = (*turns, Said(is_question=False, text=f"[{len(item.turns) - len(turns)} more]"))
    return Item(item.name[:200], item.image, item.domains, turns)
