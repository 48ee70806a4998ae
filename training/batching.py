"""Which examples form an optimizer step, and which of them stand together in a row of tokens.

A step's examples depend on seed and epoch alone: not on the layout of rows, the number of cards or
where a run was resumed. So a packed run has the losses of a padded one, and an interrupted run
those of one that was not. What does *not* live here: the rows' tensors (`rows.py`). No torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["packed", "grouped", "plain"]
Row = tuple[int, ...]
"""Examples that stand in one row, in their order."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What batching has to know of N examples; each an int array [N].

    Args:
        num_tokens: of each, image tokens included.
        prefix_tokens: up to the end of its last image.
        image_key: the same for examples that show the same images; -1: it shows none.
        prefix_key: the same for examples that may share these tokens; -1: it shares none.
    """

    num_tokens: NDArray[np.integer]
    prefix_tokens: NDArray[np.integer]
    image_key: NDArray[np.integer]
    prefix_key: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The examples of every step of a run.

    Args:
        lengths: of all examples.
        examples_per_step: over all cards; the last step of an epoch may have fewer.
        questions_per_image: up to so many examples of one image stay together.
        total_steps: of the whole run.
    """

    lengths: Lengths
    examples_per_step: int
    questions_per_image: int
    seed: int
    total_steps: int
    _order_of: dict[int, NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The order of the epoch asked last: working it out goes through all examples."""

    @property
    def steps_per_epoch(self) -> int:
        """How many steps show each example once."""
        return steps_per_epoch(len(self.lengths.num_tokens), self.examples_per_step)

    def examples_of(self, step: int) -> NDArray[np.int64]:
        """Return the examples of a step, counted from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.examples_per_step
        if epoch not in self._order_of:
            self._order_of.clear()
            self._order_of[epoch] = self._order(epoch)
        return self._order_of[epoch][start : start + self.examples_per_step]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.lengths.num_tokens))
        if self.questions_per_image == 1:
            return shuffled
        groups = list(_groups(shuffled, self.lengths.image_key, self.questions_per_image))
        order = [groups[index] for index in rng.permutation(len(groups))]
        return np.fromiter((example for group in order for example in group), np.int64)


def steps_per_epoch(num_examples: int, examples_per_step: int) -> int:
    """Return how many steps show each example once."""
    return math.ceil(num_examples / examples_per_step)


def _groups(
    shuffled: NDArray[np.int64], image_key: NDArray[np.integer], size: int
) -> Iterator[list[int]]:
    """Yield the examples of each image, at most `size` at a time; those without one singly."""
    of_image: dict[int, list[int]] = {}
    for example in shuffled.tolist():
        key = int(image_key[example])
        if key < 0:
            yield [example]
        else:
            of_image.setdefault(key, []).append(example)
    for examples in of_image.values():
        for start in range(0, len(examples), size):
            yield examples[start : start + size]


def rows_of(
    examples: Sequence[int],
    lengths: Lengths,
    layout: Layout,
    row_tokens: int,
    *,
    shares_prefixes: bool = True,
) -> list[Row]:
    """Return a step's rows.

    Args:
        row_tokens: of a packed row, at most; no example is longer.
        shares_prefixes: whether a packed row holds the same first tokens once.
    """
    if layout == "plain":
        return [(example,) for example in examples]
    if layout == "grouped":
        by_length = sorted(examples, key=lambda e: (-int(lengths.num_tokens[e]), e))
        return [(example,) for example in by_length]
    units = _units(examples, lengths, row_tokens, shares_prefixes=shares_prefixes)
    return _packed(units, row_tokens)


def micro_batches(rows: Sequence[Row], rows_each: int, num_ranks: int) -> list[list[list[Row]]]:
    """Return, for each rank, its micro-batches, of at most `rows_each` rows.

    All ranks have as many, some of them empty at the end: sharded models need every rank in every
    forward pass.
    """
    batches = [list(rows[at : at + rows_each]) for at in range(0, len(rows), rows_each)]
    each = max(1, math.ceil(len(batches) / num_ranks))
    dealt = [batches[rank::num_ranks] for rank in range(num_ranks)]
    return [mine + [[] for _ in range(each - len(mine))] for mine in dealt]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Examples that share their first tokens; they are not torn apart."""

    examples: Row
    num_tokens: int


def _units(
    examples: Sequence[int], lengths: Lengths, row_tokens: int, *, shares_prefixes: bool
) -> Iterator[_Unit]:
    sharing: dict[int, list[int]] = {}
    for example in examples:
        key = int(lengths.prefix_key[example])
        if key < 0 or not shares_prefixes:
            yield _Unit((example,), int(lengths.num_tokens[example]))
        else:
            sharing.setdefault(key, []).append(example)
    for together in sharing.values():
        prefix = int(lengths.prefix_tokens[together[0]])
        unit, tokens = [], prefix
        for example in together:
            more = int(lengths.num_tokens[example]) - prefix
            if unit and tokens + more > row_tokens:
                yield _Unit(tuple(unit), tokens)
                unit, tokens = [], prefix
            unit.append(example)
            tokens += more
        yield _Unit(tuple(unit), tokens)


def _packed(units: Iterator[_Unit], row_tokens: int) -> list[Row]:
    """Return rows by first-fit decreasing (D. S. Johnson, 1973): at most 11/9 of the fewest."""
    rows: list[list[int]] = []
    left: list[int] = []
    for unit in sorted(units, key=lambda u: (-u.num_tokens, u.examples)):
        at = next((i for i, room in enumerate(left) if room >= unit.num_tokens), None)
        if at is None:
            rows.append([])
            left.append(row_tokens)
            at = len(rows) - 1
        rows[at].extend(unit.examples)
        left[at] -= unit.num_tokens
    return [tuple(row) for row in rows]
