"""How much memory a model takes in a given layout: arithmetic, no torch, nothing is loaded.

Weights and KV cache are exact, activations and vision bounds read off the forward passes; tests
compare all of them with what is allocated. The overhead of a process is an estimate. What does
*not* live here: which layout to choose (`planner.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from modeling.cards import Card
from modeling.model_shape import DTYPE_BYTES, Group, ModelShape

Quantization = Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"]

VLLM_MEMORY_FRACTION = 0.9
"""Of each card that vLLM takes, at once, unless told otherwise (its `gpu_memory_utilization`)."""
MOST_IMAGES = 16
"""Of one request: `WorkerSettings.max_images`."""

_BESIDE_LAYERS: tuple[Group, ...] = (
    "biases", "embedding", "head", "tower", "projector", "replicated",
)  # fmt: skip
_MOST_REQUESTS = 65_536  # `WorkerSettings.slots`
_GIB = 1 << 30
# Estimates: CUDA context, libraries and fragmentation; with vLLM also its graphs; per card of
# several the buffers of NCCL; on a CPU the process with its libraries.
_OVERHEAD_BYTES = {"transformers": _GIB, "vllm": 3 * _GIB // 2, "cpu": 3 * _GIB // 4}
_NCCL_BYTES = _GIB // 4
# Of one step of vLLM, as its engine arguments are made here (SchedulerConfig's default, 0.32).
_VLLM_STEP_TOKENS = 2048
# Double quantization of QLoRA (arXiv:2305.14314, section 3; bitsandbytes 0.50): half a byte, one
# byte per block of 64, four bytes per 256 blocks.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# bitsandbytes 0.50 without its own kernel: values, scaled values, the result (default/ops.py).
_CPU_UNPACKED_BYTES = 12
_INT8_SCALE_BYTES = 4  # per row: bitsandbytes' SCB, float32


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is run.

    Args:
        replicas: workers, each on cards of its own.
        num_cards: of one replica, with a device map; otherwise the tensor-parallel size.
        is_cpu: all ranks share main memory.
        kv_cache_bytes: of each rank, taken at the start whatever is asked (vLLM on a CPU); 0: it
            grows, or takes what is left.
        adapter_ranks: ranks of the LoRA adapters in memory, added up.
    """

    engine: Literal["transformers", "vllm"] = "transformers"
    tensor_parallel_size: int = 1
    replicas: int = 1
    quantization: Quantization = "none"
    device_map: Literal["none", "auto"] = "none"
    dtype: str = "bfloat16"
    num_cards: int = 1
    is_cpu: bool = False
    kv_cache_bytes: int = 0
    adapter_ranks: int = 0

    @property
    def cards_per_replica(self) -> int:
        """Return how many cards one worker takes; main memory counts as one."""
        if self.is_cpu:
            return 1
        return self.num_cards if self.device_map == "auto" else self.tensor_parallel_size


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Bytes on the fullest card, and what room they leave.

    Args:
        usable_bytes: of the smallest card in use.
        weight_bytes: on the fullest card.
        kv_bytes_per_token: on the fullest card, for one token of one request.
        activation_bytes: of a step at the asked context and concurrency.
        vision_bytes: of encoding the images of one request.
        overhead_bytes: of a process, before it has loaded anything.
        missing_bytes: what one request of the asked context lacks; 0 where it fits.
        largest_context: of a request that runs alone, tokens; at most the model's own.
        concurrent: requests of the asked context at once, all replicas together.
    """

    usable_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int
    vision_bytes: int
    overhead_bytes: int
    missing_bytes: int
    largest_context: int
    concurrent: int

    @property
    def fits(self) -> bool:
        """Whether one request of the asked context does."""
        return self.missing_bytes == 0


def forecast(
    shape: ModelShape,
    layout: Layout,
    cards: Sequence[Card],
    context: int,
    concurrency: int,
    *,
    memory_fraction: float | None = None,
) -> MemoryForecast:
    """Return what `layout` takes on `cards`; the freest of them are used.

    Args:
        context: tokens of prompt and answer of one request.
        concurrency: requests at once, divided among the replicas.
        memory_fraction: of each card that may be used; None: what the engine takes by itself.
    """
    used = layout.replicas * layout.cards_per_replica
    freest = sorted((usable_bytes(card, layout, memory_fraction) for card in cards), reverse=True)
    usable = freest[used - 1] if used <= len(freest) else 0
    slots = math.ceil(concurrency / layout.replicas)
    per_token = kv_bytes_per_token(shape, layout)

    def fits(requests: int) -> bool:
        return needed_bytes(shape, layout, context, requests) <= usable

    most = _largest(fits, _MOST_REQUESTS)
    return MemoryForecast(
        usable_bytes=usable,
        weight_bytes=weight_bytes(shape, layout),
        kv_bytes_per_token=per_token,
        activation_bytes=activation_bytes(shape, layout, context, max(1, min(slots, most))),
        vision_bytes=vision_bytes(shape, layout, context),
        overhead_bytes=overhead_bytes(layout),
        missing_bytes=max(0, needed_bytes(shape, layout, context, 1) - usable),
        largest_context=largest_context(shape, layout, 1, usable),
        concurrent=most * layout.replicas,
    )


def largest_context(shape: ModelShape, layout: Layout, requests: int, usable: int) -> int:
    """Return the most tokens of each of `requests` at once in `usable` bytes; 0 where 1 is."""

    def fits(tokens: int) -> bool:
        return needed_bytes(shape, layout, tokens, requests) <= usable

    return _largest(fits, shape.max_context)


def needed_bytes(shape: ModelShape, layout: Layout, tokens: int, requests: int) -> int:
    """Return what one replica takes of its fullest card at most, all in all.

    On a CPU it is what all its ranks take together.
    """
    cache = tokens * requests * kv_bytes_per_token(shape, layout) * _cache_slack(shape, layout)
    if layout.kv_cache_bytes and cache <= layout.kv_cache_bytes:
        cache = layout.kv_cache_bytes
    ranks = layout.tensor_parallel_size if layout.is_cpu else 1
    return ranks * (
        weight_bytes(shape, layout)
        + adapter_bytes(shape, layout)
        + overhead_bytes(layout)
        + vision_bytes(shape, layout, tokens)
        + activation_bytes(shape, layout, tokens, requests)
        + math.ceil(cache)
    )


def weight_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of the weights on the fullest card of one replica."""
    layers = layer_bytes(shape, layout)
    ranks = layout.tensor_parallel_size
    if ranks > 1:
        sharded = _sharded_groups(shape, layout)
        return layers // ranks + sum(
            _group_bytes(shape, layout, group) // (ranks if group in sharded else 1)
            for group in _BESIDE_LAYERS
        )
    total = layers + sum(_group_bytes(shape, layout, group) for group in _BESIDE_LAYERS)
    if layout.cards_per_replica == 1:
        return total
    # accelerate 1.15, get_balanced_memory: an equal share and some of a layer; layers stay whole.
    share = total / layout.cards_per_replica
    largest = max(_group_bytes(shape, layout, group) for group in ("embedding", "head"))
    return math.ceil(max(share + 1.25 * layers / shape.layers, largest))


def layer_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of the decoder layers' matrices, quantized or not, on all cards together."""
    matrices = shape.weights["matrices"]
    match layout.quantization:
        case "none":
            return matrices.elements * DTYPE_BYTES[layout.dtype]
        case "bnb-int8":
            return matrices.elements + _INT8_SCALE_BYTES * matrices.rows
        case _:
            return math.ceil(matrices.elements * _NF4_BYTES)


def _group_bytes(shape: ModelShape, layout: Layout, group: Group) -> int:
    return shape.elements(group) * DTYPE_BYTES[layout.dtype]


def _sharded_groups(shape: ModelShape, layout: Layout) -> frozenset[Group]:
    """Return which weights beside the layers' matrices every rank has a part of only."""
    sharded: set[Group] = {"biases"}
    if layout.engine == "vllm" or shape.shards_vision:
        sharded |= {"tower", "projector"}
    if layout.engine == "vllm":
        sharded |= {"embedding", "head"}
    elif shape.shards_vision and shape.vocab % layout.tensor_parallel_size == 0:
        sharded.add("head")
    return frozenset(sharded)


def kv_bytes_per_token(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of keys and values of one token on the fullest card of one replica."""
    per_layer = 2 * shape.kv_heads * shape.head_width * DTYPE_BYTES[layout.dtype]
    if layout.device_map == "auto" and layout.num_cards > 1:
        # `weight_bytes` lets the fullest card hold up to a layer and a quarter more than its share.
        return per_layer * min(shape.layers, math.ceil(shape.layers / layout.num_cards) + 2)
    return shape.layers * per_layer // layout.tensor_parallel_size


def activation_bytes(shape: ModelShape, layout: Layout, context: int, requests: int) -> int:
    """Return a bound on what a step allocates beside weights and KV cache.

    Ours prefills one request at a time, whole: residual stream, its norm, queries and output, three
    MLP tensors, masks where the model makes any, and the prompt's own keys and values until they
    are copied into their row. vLLM prefills in steps of a bounded number of tokens.
    """
    width, ranks = DTYPE_BYTES[layout.dtype], layout.tensor_parallel_size
    per_token = (4 * shape.hidden + 3 * math.ceil(shape.intermediate / ranks)) * width
    logits = 3 * 4 * requests * shape.vocab  # float32: logits, a sorted copy, probabilities
    if layout.engine == "vllm":
        return _VLLM_STEP_TOKENS * per_token + logits
    unpacked = _unpacked_bytes(layout) * shape.hidden * shape.intermediate
    prompt_kv = context * kv_bytes_per_token(shape, layout)
    # Of sliding layers and of all others: as booleans, and as numbers.
    masks = 2 * context * context * (1 + width) if shape.has_masks else 0
    return context * per_token + masks + logits + unpacked + prompt_kv


def _unpacked_bytes(layout: Layout) -> int:
    """Return the bytes of one weight of the matrix that is unpacked just now."""
    if layout.quantization == "none":
        return 0
    if layout.is_cpu and layout.quantization != "bnb-int8":
        return _CPU_UNPACKED_BYTES
    return DTYPE_BYTES[layout.dtype]


def vision_bytes(shape: ModelShape, layout: Layout, context: int) -> int:
    """Return a bound on what encoding one request's images allocates: as many as fit into it.

    One layer works, and where the features come from an earlier one than the last, the outputs of
    all layers are kept until then. vLLM encodes what fits into one of its steps.
    """
    if not shape.tower_hidden:
        return 0
    tokens = min(context, _VLLM_STEP_TOKENS) if layout.engine == "vllm" else context
    if shape.image_tokens:
        images = max(1, min(MOST_IMAGES, tokens // shape.image_tokens))
        positions, features = images * shape.image_patches, images * shape.image_tokens
    else:
        positions, features = tokens * shape.patches_per_token, tokens
    per_position = shape.tower_hidden * (shape.tower_states + 6) + 2 * shape.tower_intermediate
    numbers = positions * per_position + 3 * features * shape.hidden
    return numbers * DTYPE_BYTES[layout.dtype]


def usable_bytes(card: Card, layout: Layout, memory_fraction: float | None) -> int:
    """Return what of a card a worker can have: what is free, and no more than it may take."""
    if layout.is_cpu:
        return card.free_bytes
    if memory_fraction is None:
        memory_fraction = VLLM_MEMORY_FRACTION if layout.engine == "vllm" else 1.0
    return min(card.free_bytes, int(card.total_bytes * memory_fraction))


def adapter_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return what LoRA matrices of all the layers' modules take on each card.

    A matrix of r x inputs and one of outputs x r for each module (arXiv:2106.09685, section 4.1).
    """
    rows = shape.weights["matrices"].rows
    queries = shape.heads * shape.head_width
    inputs = shape.layers * (5 * shape.hidden + queries + shape.intermediate)
    numbers = layout.adapter_ranks * (rows + inputs) // layout.tensor_parallel_size
    return numbers * DTYPE_BYTES[layout.dtype]


def overhead_bytes(layout: Layout) -> int:
    """Return an estimate of what a process takes before it has loaded anything, per card."""
    if layout.is_cpu:  # vLLM's engine core is a process of its own
        return _OVERHEAD_BYTES["cpu"] * (2 if layout.engine == "vllm" else 1)
    several = layout.tensor_parallel_size > 1
    return _OVERHEAD_BYTES[layout.engine] + (_NCCL_BYTES if several else 0)


def _cache_slack(shape: ModelShape, layout: Layout) -> float:
    """Return what the cache takes at its worst moment, over its own size.

    Ours grows one tensor after another, old and new side by side (half a layer); attention with a
    mask repeats the KV heads of one layer for all query heads (transformers 5.19, `repeat_kv`).
    """
    if layout.engine == "vllm":
        return 1.0
    groups = shape.heads // shape.kv_heads
    return 1 + max(0.5, groups if groups > 1 else 0) / shape.layers


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits; 0 where 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
