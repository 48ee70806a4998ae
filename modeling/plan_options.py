"""What a user asks of a plan, what it may consist of, and what comes of it.

What does *not* live here: the arithmetic (`memory_forecast.py`), the choice (`planner.py`), words
for people (`plan_words.py`).
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
)
from modeling.model_shape import DTYPE_BYTES, ModelShape

DEFAULT_CONTEXT = 4096
DEFAULT_CONCURRENCY = 16
ADAPTERS_PER_BATCH = 4
"""LoRA adapters to leave room for; vLLM runs as many in a batch (its `max_loras`)."""
PRECISIONS: tuple[Quantization, ...] = ("none", "bnb-int8", "bnb-nf4", "bnb-fp4")
"""In the order in which they are tried."""
_RANKS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user fixes; None leaves it to the planner.

    Args:
        slots: requests at once of each worker, all of which must fit; None: as many of
            `concurrency` as do.
        adapter_ranks: of the LoRA adapters to leave room for, added up.
        dtype: of weights and KV cache; None: bfloat16 on cards, else the checkpoint's.
        replicas: at most as many as there is room for.
        has_vllm: whether the vLLM engine can be started.
        memory_fraction: of each card that may be used; None: what the engine takes by itself.
    """

    context: int | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    slots: int | None = None
    adapter_ranks: int = 0
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

    def concurrency_of(self, layout: Layout) -> int:
        """Return the requests at once to plan for, all replicas together."""
        return self.concurrency if self.slots is None else self.slots * layout.replicas

    def in_words(self) -> str:
        """Return what narrows the choice of a layout, as options."""
        wishes = {
            "--engine": self.engine,
            "--tensor-parallel-size": self.tensor_parallel_size,
            "--workers": self.replicas,
            "--quantization": self.quantization,
            "--device-map": self.device_map,
            "adapters, ranks": self.adapter_ranks or None,
        }
        return ", ".join(f"{name} {wish}" for name, wish in wishes.items() if wish is not None)


@dataclass(frozen=True, slots=True)
class Option:
    """A layout with its forecast.

    Args:
        context: tokens of prompt and answer that were planned for.
        concurrency: requests at once that were asked for.
        needs_all: whether fewer at once will not do.
        memory_fraction: of each card, where the worker must be told.
        reason: why this one, or why it does not fit, in words.
    """

    layout: Layout
    forecast: MemoryForecast
    context: int
    concurrency: int
    needs_all: bool = False
    memory_fraction: float | None = None
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether it does, with as many requests at once as must be; vLLM lets them wait."""
        has_room = self.forecast.concurrent >= self.concurrency or self.layout.engine == "vllm"
        return self.forecast.fits and (has_room or not self.needs_all)

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

    def command(self, model_path: str, model_id: str, redis_url: str | None) -> str:
        """Return what starts one worker of it; without `redis_url` the environment says it."""
        words = {**self.settings(), "model_path": model_path, "model_id": model_id}
        order = ("engine", "model_path", "model_id")
        if redis_url is not None:
            words["redis_url"] = redis_url
        names = [*order, *(name for name in words if name not in order)]
        options = [f"--{name.replace('_', '-')} {shlex.quote(words[name])}" for name in names]
        return f"galen worker {' '.join(options)}"


def layouts_of(shape: ModelShape, cards: Sequence[Card], asked: Asked) -> Iterator[Layout]:
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
        base = Layout(
            dtype=_dtype(shape, asked, "float32"),
            tensor_parallel_size=asked.tensor_parallel_size or 1,
            is_cpu=True,
            adapter_ranks=asked.adapter_ranks,
        )
        is_sharded = base.tensor_parallel_size > 1  # which quantized weights cannot be
        forms = ("none",) if is_sharded else _quantizations(asked)
        yield from (replace(base, quantization=each) for each in forms)
        return
    most = len(cards)
    base = Layout(dtype=_dtype(shape, asked, "bfloat16"), adapter_ranks=asked.adapter_ranks)
    has_vllm = (asked.has_vllm or asked.engine == "vllm") and shape.vllm_problem is None
    for engine in ("vllm", "transformers") if has_vllm else ("transformers",):
        yield from _replicas(replace(base, engine=engine), cards)
        if engine == "transformers" and asked.adapter_ranks:
            continue  # its ranks take no adapters
        wanted = {*_RANKS, asked.tensor_parallel_size or 1} - {1}
        for ranks in sorted(wanted & set(range(2, most + 1)) & set(shape.ranks)):
            yield from _replicas(replace(base, engine=engine, tensor_parallel_size=ranks), cards)
    maps_layers = asked.device_map == "auto"
    for quantization in _quantizations(asked):
        for num_cards in sorted({1, 2, most} & set(range(1, most + 1))):
            has_other = num_cards == 1 or num_cards in shape.ranks
            if quantization == "none" and has_other and not maps_layers:
                continue
            part = replace(
                base,
                quantization=quantization,
                device_map="auto" if num_cards > 1 or maps_layers else "none",
                num_cards=num_cards,
            )
            yield from _replicas(part, cards)


def _replicas(layout: Layout, cards: Sequence[Card]) -> Iterator[Layout]:
    """Yield as many replicas as there are cards for; where cards differ, also fewer of them."""
    most = len(cards) // layout.cards_per_replica
    are_alike = len({(card.total_bytes, card.free_bytes) for card in cards}) == 1
    for replicas in [most] if are_alike else range(most, 0, -1):
        yield replace(layout, replicas=replicas)


def is_cpu(cards: Sequence[Card]) -> bool:
    """Whether `cards` stand for main memory."""
    return [card.name for card in cards] == ["CPU"]


def _quantizations(asked: Asked) -> tuple[Quantization, ...]:
    return tuple(q for q in PRECISIONS if q != "bnb-fp4" or asked.quantization == q)


def _dtype(shape: ModelShape, asked: Asked, otherwise: str) -> str:
    """Return the type of the weights; on cards float32 ones are run in bfloat16 unless asked."""
    if asked.dtype is not None and asked.dtype in DTYPE_BYTES:
        return asked.dtype
    if shape.dtype == "float16" or otherwise == "float32":
        return shape.dtype or otherwise
    return otherwise


def fraction_of(layout: Layout, cards: Sequence[Card], asked: Asked) -> float | None:
    """Return what a worker must be told of each card; vLLM takes a part of all, free or not."""
    if asked.memory_fraction is not None or layout.engine != "vllm" or layout.is_cpu:
        return asked.memory_fraction
    shares = sorted((card.free_bytes / card.total_bytes for card in cards), reverse=True)
    free = shares[layout.replicas * layout.cards_per_replica - 1]
    return None if free >= VLLM_MEMORY_FRACTION else max(0.01, math.floor(free * 100) / 100)
