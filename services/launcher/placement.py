"""Which of a host's cards a model may use, and which of them each of its workers gets. Pure."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from modeling.memory_forecast import VLLM_MEMORY_FRACTION
from services.launcher.terminal import CommandError
from services.protocol.admin import Card

_NEARLY = 0.8  # of the freest card's room: cards that can be used together with it
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
    """Return the cards that nobody uses; where there are none, those with most room, shared.

    Args:
        present: with what is free and promised to nobody.
    """
    unused = tuple(card for card in present if card.index not in taken)
    if unused or not present:
        return Candidates(unused)
    most = max(_free_share(card) for card in present)
    roomy = tuple(card for card in present if _free_share(card) >= _NEARLY * most)
    free = min(_free_share(card) for card in roomy)
    return Candidates(roomy, max(0.01, min(VLLM_MEMORY_FRACTION, _ROOM * free)))


def candidates_together(
    present: Sequence[Card], num_models: int, taken: Sequence[int], *, num_left: int | None = None
) -> list[Candidates]:
    """Return what the next of several models that start together may use, in the order of trying.

    At first its even share of the cards that are left, then more of them, as long as one is left
    for each of the others. With fewer cards than models each model gets its part of one card, the
    one that fewest use.

    Args:
        taken: cards of the models before it, one entry per use.
        num_left: models that have no cards yet, this one included; None: all.
    """
    num_left = num_models if num_left is None else num_left
    if not present:
        return [Candidates((), None if num_models == 1 else 1 / num_models)]
    if num_models > len(present):
        share = math.ceil(num_models / len(present))
        least = min(present, key=lambda card: (taken.count(card.index), card.index))
        return [Candidates((least,), VLLM_MEMORY_FRACTION / share)]
    left = sorted(
        (card for card in present if card.index not in taken),
        key=lambda card: (-card.free_bytes, card.index),
    )
    fewest, most = max(1, len(left) // num_left), max(1, len(left) - num_left + 1)
    return [Candidates(tuple(left[:count])) for count in range(fewest, most + 1)]


def share_of(num_workers: int, each: int, num_cards: int) -> int:
    """Return how many workers have to share a card."""
    return max(1, math.ceil(num_workers * each / num_cards))


def _free_share(card: Card) -> float:
    return card.free_bytes / card.total_bytes


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
