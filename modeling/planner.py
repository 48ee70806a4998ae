"""What of a model fits on which cards, and which layout is best: arithmetic, nothing is loaded.

    galen plan llava-med-v1.5-7b --gpus 2x24GB

What does *not* live here: the sizes of models (`model_shape.py`) and the arithmetic of memory
(`memory_forecast.py`).
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modeling.cards import Card
from modeling.memory_forecast import (
    VLLM_MEMORY_FRACTION,
    Layout,
    MemoryForecast,
    Quantization,
    forecast,
    largest_context,
)
from modeling.model_shape import DTYPE_BYTES, ModelShape

DEFAULT_CONTEXT = 4096
DEFAULT_CONCURRENCY = 16
_ROOM_FOR_WORDS = 256  # beside an image: a question and an answer, tokens
_SHORTEST_CONTEXT = 16  # of `WorkerSettings.context_length`
_RANKS = (2, 4, 8)
_PRECISIONS: tuple[Quantization, ...] = ("none", "bnb-int8", "bnb-nf4", "bnb-fp4")


class PlannerError(Exception):
    """Nothing fits, or nothing like what was asked; the message is one line, with the numbers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user fixes; None leaves it to the planner.

    Args:
        dtype: of weights and KV cache; None: bfloat16 on cards, else the checkpoint's.
        replicas: at most as many as there is room for.
        has_vllm: whether the vLLM engine can be started.
        memory_fraction: of each card that may be used; None: what the engine takes by itself.
    """

    context: int | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    engine: Literal["transformers", "vllm"] | None = None
    tensor_parallel_size: int | None = None
    replicas: int | None = None
    quantization: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    has_vllm: bool = False
    memory_fraction: float | None = None

    def context_of(self, shape: ModelShape) -> int:
        """Return the tokens of prompt and answer to plan for; at most the model's own."""
        return min(self.context or DEFAULT_CONTEXT, shape.max_context)


@dataclass(frozen=True, slots=True)
class Option:
    """A layout with its forecast.

    Args:
        context: tokens of prompt and answer that were planned for.
        concurrency: requests at once that were asked for.
        memory_fraction: of each card, where the worker must be told.
        reason: why this one, or why it does not fit, in words.
    """

    layout: Layout
    forecast: MemoryForecast
    context: int
    concurrency: int
    memory_fraction: float | None = None
    reason: str = ""

    @property
    def slots(self) -> int:
        """Requests at once of one worker: what was asked for, or what fits at full length.

        vLLM lets a request wait where its cache is full, so it gets what was asked for.
        """
        replicas = self.layout.replicas
        asked = math.ceil(self.concurrency / replicas)
        if self.layout.engine == "vllm":
            return asked
        return max(1, min(asked, self.forecast.concurrent // replicas))

    @property
    def verdict(self) -> str:
        """Whether it fits, in words."""
        found = self.forecast
        if not found.fits:
            lacks = f"lacks {gigabytes(found.missing_bytes)}"
            return (
                f"{lacks}; fits {found.largest_context} tokens" if found.largest_context else lacks
            )
        if found.concurrent < self.concurrency:
            return f"fits, {found.concurrent} of {self.concurrency} at once"
        return "fits"

    def settings(self) -> dict[str, str]:
        """Return fields of `WorkerSettings` that make a worker of this layout."""
        layout = self.layout
        fields = {
            "engine": layout.engine,
            "dtype": layout.dtype,
            "context_length": str(self.context),
            "slots": str(self.slots),
        }
        if self.memory_fraction is not None:
            fields["gpu_memory_fraction"] = f"{self.memory_fraction:.2f}"
        if layout.tensor_parallel_size > 1:
            fields["tensor_parallel_size"] = str(layout.tensor_parallel_size)
        if layout.quantization != "none":
            fields["quantization"] = layout.quantization
        if layout.device_map != "none":
            fields["device_map"] = layout.device_map
        return fields

    def command(self, model_path: str, model_id: str) -> str:
        """Return what starts one worker of it."""
        words = {**self.settings(), "model_path": model_path, "model_id": model_id}
        order = ("engine", "model_path", "model_id")
        names = [*order, *(name for name in words if name not in order)]
        options = [f"--{name.replace('_', '-')} {shlex.quote(words[name])}" for name in names]
        return f"galen worker {' '.join(options)}"


def plan(shape: ModelShape, cards: Sequence[Card], asked: Asked | None = None) -> list[Option]:
    """Return all layouts worth a look with their forecasts, best first.

    Best is, in this order: what fits; unquantized weights, then int8, then nf4; no device map; vLLM
    where it is installed; most of the requests that were asked for; fewest cards per replica.

    Args:
        cards: to use; one whose name is "CPU" stands for a machine without a card.
    """
    asked = asked or Asked()
    context = asked.context_of(shape)
    options: list[Option] = []
    for layout in _layouts(shape, cards, asked):
        fraction = _fraction(layout, cards, asked)
        found = forecast(shape, layout, cards, context, asked.concurrency, memory_fraction=fraction)
        options.append(Option(layout, found, context, asked.concurrency, fraction))
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
            f"{shape.name}: no layout on {describe_cards(cards)} is as asked; tensor-parallel "
            f"sizes that divide it: {', '.join(map(str, shape.ranks))}"
        )
    best = options[0]
    if not best.forecast.fits:
        longest = max(option.forecast.largest_context for option in options)
        if asked.context is None and longest >= shape.image_tokens + _ROOM_FOR_WORDS:
            return choose(shape, cards, replace(asked, context=longest))
        nearest = min(options, key=lambda option: option.forecast.missing_bytes)
        raise PlannerError(_why_not(shape, nearest, cards))
    return replace(best, reason=_reason(best, options, cards))


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
    found = forecast(shape, layout, cards, context, slots, memory_fraction=memory_fraction)
    option = Option(layout, found, context, slots)
    if not found.fits:
        raise PlannerError(_why_not(shape, option, cards))
    if layout.engine == "vllm" and not layout.is_cpu:
        _check_vllm_share(layout, cards, memory_fraction or VLLM_MEMORY_FRACTION)
    elif layout.engine != "vllm" and found.concurrent < slots:
        shorter = largest_context(shape, layout, slots, found.usable_bytes)
        raise PlannerError(_why_too_many(shape, option, cards, shorter))
    return found


def describe_layout(layout: Layout) -> str:
    """Return replicas and cards in words."""
    if layout.is_cpu:
        return "CPU"
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


def _layouts(shape: ModelShape, cards: Sequence[Card], asked: Asked) -> Iterator[Layout]:
    """Yield layouts of what is possible and was asked for."""
    for layout in _possible_layouts(shape, cards, asked):
        wishes = (
            (asked.engine, layout.engine),
            (asked.tensor_parallel_size, layout.tensor_parallel_size),
            (asked.quantization, layout.quantization),
            (asked.device_map, layout.device_map),
        )
        if any(wish is not None and wish != have for wish, have in wishes):
            continue
        if asked.replicas is None:
            yield layout
        elif asked.replicas <= layout.replicas or layout.is_cpu:
            yield replace(layout, replicas=asked.replicas if not layout.is_cpu else 1)


def _possible_layouts(shape: ModelShape, cards: Sequence[Card], asked: Asked) -> Iterator[Layout]:
    if is_cpu(cards):
        base = Layout(dtype=_dtype(shape, asked, "float32"), is_cpu=True)
        yield from (replace(base, quantization=each) for each in _quantizations(asked))
        return
    base, most = Layout(dtype=_dtype(shape, asked, "bfloat16")), len(cards)
    has_vllm = asked.has_vllm or asked.engine == "vllm"
    for engine in ("vllm", "transformers") if has_vllm else ("transformers",):
        yield replace(base, engine=engine, replicas=most)
        wanted = {*_RANKS, asked.tensor_parallel_size or 1} - {1}
        for ranks in sorted(wanted & set(range(2, most + 1))):
            if ranks in shape.ranks:
                size = {"tensor_parallel_size": ranks, "replicas": most // ranks}
                yield replace(base, engine=engine, **size)
    for quantization in _quantizations(asked):
        for num_cards in sorted({1, 2, most} & set(range(1, most + 1))):
            has_other = num_cards == 1 or (num_cards in shape.ranks and asked.device_map != "auto")
            if quantization == "none" and has_other:
                continue
            yield replace(
                base,
                quantization=quantization,
                device_map="auto" if num_cards > 1 else "none",
                num_cards=num_cards,
                replicas=most // num_cards,
            )


def is_cpu(cards: Sequence[Card]) -> bool:
    """Whether `cards` stand for main memory."""
    return [card.name for card in cards] == ["CPU"]


def _quantizations(asked: Asked) -> tuple[Quantization, ...]:
    return tuple(q for q in _PRECISIONS if q != "bnb-fp4" or asked.quantization == q)


def _dtype(shape: ModelShape, asked: Asked, otherwise: str) -> str:
    """Return the type of the weights; on cards float32 ones are run in bfloat16 unless asked."""
    if asked.dtype is not None and asked.dtype in DTYPE_BYTES:
        return asked.dtype
    if shape.dtype == "float16" or otherwise == "float32":
        return shape.dtype or otherwise
    return otherwise


def _rank(option: Option, asked: Asked) -> tuple[object, ...]:
    layout = option.layout
    return (
        not option.forecast.fits,
        _PRECISIONS.index(layout.quantization),
        layout.device_map == "auto",
        layout.engine != ("vllm" if asked.has_vllm else "transformers"),
        -min(option.forecast.concurrent, asked.concurrency),
        layout.cards_per_replica,
    )


def _reason(best: Option, options: Sequence[Option], cards: Sequence[Card]) -> str:
    layout, weights = best.layout, describe_weights(best.layout)
    said = f"{layout.engine} engine, {describe_layout(layout)}, {weights}: "
    size = gigabytes(best.forecast.weight_bytes)
    room = f"{size} of weights per card leave room for {best.forecast.concurrent} requests"
    if layout.is_cpu:
        room = f"no card here; {size} of weights leave room for {best.forecast.concurrent} requests"
    said += f"{room} of {best.context} tokens at once"
    if layout.quantization != "none" and any(o.layout.quantization == "none" for o in options):
        said += f"; unquantized weights do not fit on {describe_cards(cards)}"
    elif layout.device_map == "auto" and layout.num_cards > 1:
        said += "; no smaller number of cards holds it, and the heads do not divide among these"
    elif layout.tensor_parallel_size > 1:
        said += "; one card does not hold it"
    return said


def _fraction(layout: Layout, cards: Sequence[Card], asked: Asked) -> float | None:
    """Return what a worker must be told of each card; vLLM takes a part of all, free or not."""
    if asked.memory_fraction is not None or layout.engine != "vllm" or layout.is_cpu:
        return asked.memory_fraction
    free = min(card.free_bytes / card.total_bytes for card in cards)
    return None if free >= VLLM_MEMORY_FRACTION else max(0.01, math.floor(free * 100) / 100)


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


def _why_too_many(
    shape: ModelShape, option: Option, cards: Sequence[Card], shorter_context: int
) -> str:
    found, slots = option.forecast, option.concurrency
    cache = found.kv_bytes_per_token * option.context
    ways = [f"--slots {found.concurrent}"]
    if shorter_context >= _SHORTEST_CONTEXT:
        ways.append(f"--context-length {shorter_context} with {slots}")
    return (
        f"{shape.name} fits on {describe_cards(cards)} ({describe_layout(option.layout)}, "
        f"{describe_weights(option.layout)}), but not {slots} requests of {option.context} tokens "
        f"at once ({gigabytes(cache)} of KV cache each, {gigabytes(found.weight_bytes)} of "
        f"weights, {gigabytes(found.usable_bytes)} usable): take {' or '.join(ways)}"
    )


def _why_not(shape: ModelShape, option: Option, cards: Sequence[Card]) -> str:
    found, layout = option.forecast, option.layout
    parts = (
        f"{gigabytes(found.weight_bytes)} weights, "
        f"{gigabytes(found.kv_bytes_per_token * option.context)} KV cache, "
        f"{gigabytes(found.activation_bytes)} activations, "
        f"{gigabytes(found.vision_bytes)} vision, {gigabytes(found.overhead_bytes)} overhead"
    )
    where = "memory" if layout.is_cpu else "each card"
    return (
        f"{shape.name} does not fit on {describe_cards(cards)} ({describe_layout(layout)}, "
        f"{describe_weights(layout)}): one request of {option.context} tokens needs {parts}, and "
        f"{gigabytes(found.usable_bytes)} of {where} are usable: "
        f"{gigabytes(found.missing_bytes)} are missing"
    )
