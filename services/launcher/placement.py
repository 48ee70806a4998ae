"""Which of a host's cards a model may use, and which of them each of its workers gets. Pure."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from modeling.memory_forecast import VLLM_MEMORY_FRACTION
from services.launcher.terminal import CommandError
from services.protocol.admin import Card

_ROOM = 0.95
"""Of what is free on a card that others use, too."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Cards for one model.

    Args:
        memory_fraction: of each card's memory that the model may take, without a card of what is
            free of main memory; None: as it is set.
    """

    cards: tuple[Card, ...]
    memory_fraction: float | None = None


def candidates_beside(present: Sequence[Card], taken: Set[int]) -> Candidates:
    """Return the cards that nobody uses; where there are none, all of them with what is free."""
    unused = tuple(card for card in present if card.index not in taken)
    if unused or not present:
        return Candidates(unused)
    free = min(card.free_bytes / card.total_bytes for card in present)
    return Candidates(tuple(present), max(0.01, min(VLLM_MEMORY_FRACTION, _ROOM * free)))


def candidates_together(
    present: Sequence[Card], num_models: int, taken: Sequence[int]
) -> Candidates:
    """Return the cards for the next of several models that start together.

    With fewer cards than models each model gets its part of one card, the one that fewest use.

    Args:
        taken: cards of the models before it, one entry per use.
    """
    if not present:
        return Candidates((), None if num_models == 1 else 1 / num_models)
    if num_models <= len(present):
        left = tuple(card for card in present if card.index not in taken)
        return candidates_beside(present, frozenset(taken)) if not left else Candidates(left)
    share = math.ceil(num_models / len(present))
    least = min(present, key=lambda card: (taken.count(card.index), card.index))
    return Candidates((least,), VLLM_MEMORY_FRACTION / share)


def place_workers(
    num_workers: int, each: int, cards: Sequence[Card]
) -> tuple[tuple[int, ...], ...]:
    """Give each worker `each` cards, the freest first, and a card twice only where it must be.

    Raises:
        CommandError: one worker needs more cards than there are.
    """
    if each > len(cards):
        raise CommandError(f"a worker needs {each} cards, and {len(cards)} can be used")
    free = {card.index: card.free_bytes for card in cards}
    uses = dict.fromkeys(free, 0)
    placed: list[tuple[int, ...]] = []
    for _ in range(num_workers):
        chosen = sorted(free, key=lambda index: (uses[index], -free[index], index))[:each]
        for index in chosen:
            uses[index] += 1
        placed.append(tuple(sorted(chosen)))
    return tuple(placed)
