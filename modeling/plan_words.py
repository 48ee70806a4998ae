"""The planner's figures in words: of layouts, of cards, and of why."""

import math
from collections.abc import Sequence

from modeling.cards import Card
from modeling.memory_forecast import Layout, largest_context
from modeling.model_shape import ModelShape
from modeling.plan_options import Option, is_cpu

_SHORTEST_CONTEXT = 16  # of `WorkerSettings.context_length`


def describe_layout(layout: Layout) -> str:
    """Return replicas and cards in words."""
    if layout.is_cpu:
        ranks = layout.tensor_parallel_size
        return "CPU" if ranks == 1 else f"CPU, TP {ranks}"
    if layout.device_map == "auto" and layout.num_cards > 1:
        one = f"device map over {layout.num_cards}"
    elif layout.tensor_parallel_size > 1:
        one = f"TP {layout.tensor_parallel_size}"
    else:
        one = "1 card"
    return one if layout.replicas == 1 else f"{layout.replicas} x {one}"


def describe_weights(layout: Layout) -> str:
    """Return the form of the weights in a word."""
    if layout.quantization != "none":
        return layout.quantization.removeprefix("bnb-")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[layout.dtype]


def describe_cards(cards: Sequence[Card]) -> str:
    """Return cards in words, equal ones together."""
    if is_cpu(cards):
        return f"main memory with {gigabytes(cards[0].free_bytes)} free"
    names = [card.name for card in cards]
    return " + ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def gigabytes(num_bytes: int) -> str:
    """Return 10^9 bytes with two digits after the point, the last one rounded up."""
    return f"{number_of_gb(num_bytes)} GB"


def number_of_gb(num_bytes: int) -> str:
    """Return the number of `gigabytes`."""
    return f"{math.ceil(num_bytes / 10**7) / 100:.2f}"


def verdict(option: Option) -> str:
    """Return whether it fits, in words."""
    found = option.forecast
    if not found.fits:
        lacks = f"lacks {gigabytes(found.missing_bytes)}"
        return f"{lacks}; fits {found.largest_context} tokens" if found.largest_context else lacks
    if not option.fits:
        return f"only {found.concurrent} of {option.concurrency} at once"
    if found.concurrent < option.concurrency:
        return f"fits, {found.concurrent} of {option.concurrency} at once"
    return "fits"


def reason(best: Option, options: Sequence[Option], cards: Sequence[Card]) -> str:
    """Return what was chosen and why."""
    layout, weights = best.layout, describe_weights(best.layout)
    said = f"{layout.engine} engine, {describe_layout(layout)}, {weights}: "
    size = gigabytes(best.forecast.weight_bytes)
    room = f"{size} of weights per card leave room for {best.forecast.concurrent} requests"
    if layout.is_cpu:
        size = gigabytes(_in_one_memory(layout) * best.forecast.weight_bytes)
        room = f"no card here; {size} of weights leave room for {best.forecast.concurrent} requests"
    said += f"{room} of {best.context} tokens at once"
    if layout.quantization != "none" and any(o.layout.quantization == "none" for o in options):
        said += f"; unquantized weights do not fit on {describe_cards(cards)}"
    elif layout.cards_per_replica > 1:
        said += f"; {_why_several(best, options)}"
    return said


def _why_several(best: Option, options: Sequence[Option]) -> str:
    mine = best.layout
    fewer = [
        option
        for option in options
        if option.fits and option.layout.quantization == mine.quantization
        if option.layout.cards_per_replica < mine.cards_per_replica
    ]
    if not fewer:
        return "fewer cards do not hold it"
    if any(option.forecast.concurrent < best.forecast.concurrent for option in fewer):
        return "fewer cards per worker leave less room"
    return "as asked"


def why_not(shape: ModelShape, option: Option, cards: Sequence[Card]) -> str:
    """Return what one request needs and what there is."""
    found, layout = option.forecast, option.layout
    num_bytes = {
        "weights": found.weight_bytes,
        "KV cache": found.kv_bytes_per_token * option.context,
        "activations": found.activation_bytes,
        "vision": found.vision_bytes,
        "overhead": found.overhead_bytes,
    }
    ranks = _in_one_memory(layout)
    parts = ", ".join(f"{gigabytes(ranks * size)} {part}" for part, size in num_bytes.items())
    where = "memory" if layout.is_cpu else "each card"
    return (
        f"{shape.name} does not fit on {describe_cards(cards)} ({describe_layout(layout)}, "
        f"{describe_weights(layout)}): one request of {option.context} tokens needs {parts}, and "
        f"{gigabytes(found.usable_bytes)} of {where} are usable: "
        f"{gigabytes(found.missing_bytes)} are missing"
    )


def why_too_long(option: str, context: int, own: int) -> str | None:
    """Return why a model cannot take so long a context; None where it can.

    Args:
        option: what the user set it by.
        own: tokens that the model was made for.
    """
    if context <= own:
        return None
    return (
        f"{option} {context} exceeds the model's own limit of {own} tokens; "
        f"take at most {own}, or leave it out"
    )


def why_too_many(shape: ModelShape, option: Option, cards: Sequence[Card]) -> str:
    """Return why not all slots fit, and what would."""
    found, replicas = option.forecast, option.layout.replicas
    slots = option.concurrency // replicas
    shorter_context = largest_context(shape, option.layout, slots, found.usable_bytes)
    ranks = _in_one_memory(option.layout)
    cache = ranks * found.kv_bytes_per_token * option.context
    ways = [f"--slots {found.concurrent // replicas}"]
    if shorter_context >= _SHORTEST_CONTEXT:
        ways.append(f"--context-length {shorter_context} with {slots}")
    return (
        f"{shape.name} fits on {describe_cards(cards)} ({describe_layout(option.layout)}, "
        f"{describe_weights(option.layout)}), but not {slots} requests of {option.context} tokens "
        f"at once ({gigabytes(cache)} of KV cache each, {gigabytes(ranks * found.weight_bytes)} of "
        f"weights, {gigabytes(found.usable_bytes)} usable): take {' or '.join(ways)}"
    )


def _in_one_memory(layout: Layout) -> int:
    """Return how many ranks of a worker share the memory whose size is told."""
    return layout.tensor_parallel_size if layout.is_cpu else 1
