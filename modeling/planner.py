"""What of a model fits on which cards, and which layout is best: arithmetic, nothing is loaded.

    galen plan llava-med-v1.5-7b --gpus 2x24GB

What does *not* live here: the sizes of models (`model_shape.py`), the arithmetic of memory
(`memory_forecast.py`), what is possible (`plan_options.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from modeling.cards import Card
from modeling.memory_forecast import (
    VLLM_MEMORY_FRACTION,
    Layout,
    MemoryForecast,
    forecast,
    kv_bytes_per_token,
)
from modeling.model_shape import ModelShape
from modeling.plan_options import PRECISIONS, Asked, Option, fraction_of, layouts_of
from modeling.plan_words import describe_cards, gigabytes, reason, why_not, why_too_many

_ROOM_FOR_WORDS = 256  # beside an image: a question and an answer, tokens


class PlannerError(Exception):
    """Nothing fits, or nothing like what was asked; the message is one line, with the numbers."""


def plan(shape: ModelShape, cards: Sequence[Card], asked: Asked | None = None) -> list[Option]:
    """Return all layouts worth a look with their forecasts, best first.

    Best is, in this order: what fits; unquantized weights, then int8, then nf4; no device map; vLLM
    where it is installed; most of the requests that were asked for; fewest cards per replica; most
    replicas.

    Args:
        cards: to use; one whose name is "CPU" stands for a machine without a card.
    """
    asked = asked or Asked()
    context = asked.context_of(shape)
    options: list[Option] = []
    for layout in dict.fromkeys(layouts_of(shape, cards, asked)):
        fraction = fraction_of(layout, cards, asked)
        wanted = asked.concurrency_of(layout)
        found = forecast(shape, layout, cards, context, wanted, memory_fraction=fraction)
        needs_all = asked.slots is not None
        options.append(Option(layout, found, context, wanted, needs_all, fraction))
    return sorted(options, key=lambda option: _rank(option, asked))


def choose(shape: ModelShape, cards: Sequence[Card], asked: Asked | None = None) -> Option:
    """Return the best layout, with its reason.

    Where nothing fits, and no context was asked for, the longest that fits and has room for an
    image is taken.

    Raises:
        PlannerError: none fits, or none is as asked; with what the nearest one lacks.
    """
    asked = asked or Asked()
    options = plan(shape, cards, asked)
    if not options:
        raise PlannerError(
            f"{shape.name}: no layout on {describe_cards(cards)} is as asked "
            f"({asked.in_words()}); tensor-parallel sizes that divide it: "
            f"{', '.join(map(str, shape.ranks))}"
        )
    best = options[0]
    if not best.fits:
        if best.forecast.fits:
            raise PlannerError(why_too_many(shape, best, cards))
        longest = max(option.forecast.largest_context for option in options)
        if asked.context is None and longest >= shape.image_tokens + _ROOM_FOR_WORDS:
            return choose(shape, cards, replace(asked, context=longest))
        nearest = min(options, key=lambda option: option.forecast.missing_bytes)
        raise PlannerError(why_not(shape, nearest, cards))
    return replace(best, reason=reason(best, options, cards))


def check(
    shape: ModelShape,
    layout: Layout,
    cards: Sequence[Card],
    context: int,
    slots: int,
    *,
    memory_fraction: float | None = None,
) -> MemoryForecast:
    """Return the forecast of one worker that is about to load.

    With transformers all its slots must have room at their longest, for nothing else bounds its
    cache. vLLM makes requests wait, so one must.

    Raises:
        PlannerError: it does not fit; with the numbers, and with what would.
    """
    if layout.cards_per_replica > len(cards):
        raise PlannerError(
            f"{shape.name}: {layout.cards_per_replica} cards are asked for, "
            f"and there are {len(cards)}"
        )
    cache = context * kv_bytes_per_token(shape, layout)
    if 0 < layout.kv_cache_bytes < cache:
        raise PlannerError(
            f"{shape.name}: one request of {context} tokens needs {gigabytes(cache)} of KV cache, "
            f"and there are {gigabytes(layout.kv_cache_bytes)} per process; raise --kv-cache-gib, "
            "or lower --context-length"
        )
    found = forecast(shape, layout, cards, context, slots, memory_fraction=memory_fraction)
    option = Option(layout, found, context, slots)
    if not found.fits:
        raise PlannerError(why_not(shape, option, cards))
    if layout.engine == "vllm" and not layout.is_cpu:
        _check_vllm_share(layout, cards, memory_fraction or VLLM_MEMORY_FRACTION)
    elif layout.engine != "vllm" and found.concurrent < slots:
        raise PlannerError(why_too_many(shape, option, cards))
    return found


def _rank(option: Option, asked: Asked) -> tuple[object, ...]:
    layout = option.layout
    return (
        not option.fits,
        not option.forecast.fits,
        PRECISIONS.index(layout.quantization),
        layout.device_map == "auto",
        layout.engine != ("vllm" if asked.has_vllm else "transformers"),
        -min(option.forecast.concurrent, asked.concurrency),
        layout.cards_per_replica,
        -layout.replicas,
    )


def _check_vllm_share(layout: Layout, cards: Sequence[Card], fraction: float) -> None:
    """Raise PlannerError where vLLM would find less free memory than the part that it takes."""
    for card in cards[: layout.cards_per_replica]:
        if card.free_bytes < card.total_bytes * fraction:
            free = math.floor(card.free_bytes / card.total_bytes * 100) / 100
            raise PlannerError(
                f"{card.name}: {gigabytes(card.free_bytes)} of {gigabytes(card.total_bytes)} are "
                f"free, and vLLM would take {fraction:.0%}; end what uses it, or "
                f"--gpu-memory-fraction {free:.2f}"
            )
