"""How much memory a training run takes of each card: arithmetic, no torch, nothing is loaded.

Weights, gradients and moments are exact; tests compare them with a real model's. Activations are
read off the forward pass of transformers' Llama under autocast (tensors that autograd keeps), the
overhead of a process is an estimate. Taken for granted, and kept by the trainer: trained weights
are float32 and cast layer by layer, so no cast outlives its layer (autocast's cache is off);
frozen ones are stored in bfloat16; logits are made at answer tokens only; AdamW is fused, so it
has no temporary copies. What does *not* live here: which recipe fits where (`plan.py`).
"""

import math
from dataclasses import dataclass, fields

from modeling.model_shape import ModelShape
from training.config import TrainConfig
from training.weight_counts import WeightCounts, count_weights, linear_layers

_GIB = 1 << 30
_MASTER_BYTES = 4  # float32: the trained weights, and their gradients
# AdamW's two moments in float32; in 8 bits with a float32 scale per block of 256 each
# (arXiv:2110.02861, section 2; bitsandbytes 0.50).
_MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}
# QLoRA (arXiv:2305.14314, section 3): half a byte, and 0.127 bits for the constants of double
# quantisation: one byte per block of 64, four bytes per 256 of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Estimates: CUDA's context, libraries and workspaces; the buffers of NCCL, where there are several
# cards; what the allocator loses between blocks, as a share of what comes and goes in a step.
_CONTEXT_BYTES = _GIB
_NCCL_BYTES = _GIB // 4
_FRAGMENTATION = 0.15
# A logit in the compute type, as float32, its gradient in both (transformers' loss upcasts).
_LOGIT_BYTES = 12
_GATHERED_LAYERS = 2  # FSDP2 gathers one layer while the one before it works


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of the fullest card, by what takes them.

    Args:
        frozen: weights that are not trained.
        trained: weights that are.
        gathered: layers that are whole for a moment (FSDP), or unpacked or cast for one.
        activations: kept for the backward pass, and the tensors of the layer at work.
        logits: with their gradients.
        vision: encoding the images of one forward pass.
        overhead: of the process, and lost between blocks.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    vision: int
    overhead: int

    @property
    def peak(self) -> int:
        """All of it at once; a bound, since not all parts peak in the same moment."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """What one card takes through the model at once.

    Args:
        tokens: of all rows.
        answer_tokens: at which logits are made.
    """

    tokens: int
    answer_tokens: int
    images: int


def training_memory(
    shape: ModelShape, config: TrainConfig, work: ForwardPass, num_cards: int
) -> TrainingMemory:
    """Return what a run takes of each of `num_cards`."""
    counts = count_weights(shape, config)
    is_sharded = num_cards > 1 and config.devices.sharding == "full"
    ranks = num_cards if is_sharded else 1
    activations = _activation_bytes(shape, config, work.tokens)
    logits = work.answer_tokens * shape.vocab * _LOGIT_BYTES
    vision = _vision_bytes(shape, config, work.images)
    passing = activations + logits + vision
    return TrainingMemory(
        frozen=_frozen_bytes(config, counts, ranks),
        trained=_share(counts.trained * _MASTER_BYTES, ranks),
        gradients=_share(counts.trained * _MASTER_BYTES, ranks),
        optimizer=_share(counts.trained * _MOMENT_BYTES[config.optimizer.kind], ranks),
        gathered=_gathered_bytes(shape, config, counts, is_sharded=is_sharded),
        activations=activations,
        logits=logits,
        vision=vision,
        overhead=_CONTEXT_BYTES
        + (_NCCL_BYTES if num_cards > 1 else 0)
        + math.ceil(_FRAGMENTATION * passing),
    )


def _share(num_bytes: float, ranks: int) -> int:
    return math.ceil(num_bytes / ranks)


def _compute_bytes(config: TrainConfig) -> int:
    return 2 if config.model.precision == "bf16" else 4


def _frozen_bytes(config: TrainConfig, counts: WeightCounts, ranks: int) -> int:
    """Return the bytes of frozen weights; those in 4 bits are whole on every card."""
    plain = (counts.frozen - counts.quantised) * _compute_bytes(config)
    return _share(plain, ranks) + math.ceil(counts.quantised * _NF4_BYTES)


def _gathered_bytes(
    shape: ModelShape, config: TrainConfig, counts: WeightCounts, *, is_sharded: bool
) -> int:
    """Return copies of weights that live for a moment.

    Sharded: two layers with the gradients of one, and all that stands outside the layers. Else:
    the cast of one layer's trained weights, or one matrix out of its 4 bits. Without gradient
    checkpointing the backward pass needs all casts of trained matrices again, so they stay.
    """
    width = _compute_bytes(config)
    is_full = config.train.language_model == "full"
    matrices = shape.elements("matrices")
    layer = matrices // shape.layers
    kept = 0
    if is_full and width < _MASTER_BYTES and not config.model.gradient_checkpointing:
        kept = matrices * width
    if is_sharded:
        outside = counts.language_model - matrices + counts.projector + counts.tower
        layers = 0 if config.model.quantisation else _GATHERED_LAYERS * layer
        gradients = layer * _MASTER_BYTES if is_full else 0
        return max(kept, layers * width) + gradients + outside * width
    if config.model.quantisation:
        return max(math.prod(sides) for sides in linear_layers(shape).values()) * width
    if is_full and width < _MASTER_BYTES:
        return max(kept, max(layer, shape.elements("head")) * width)
    return 0


def _activation_bytes(shape: ModelShape, config: TrainConfig, tokens: int) -> int:
    """Return what the decoder keeps for the backward pass, and what its layer at work takes.

    With gradient checkpointing: the input of every layer, and one layer's own tensors.
    """
    if not _has_backward(config):
        return tokens * _working_bytes(shape, config)
    per_layer = _layer_bytes(shape, config)
    if config.model.gradient_checkpointing:
        kept = shape.layers * shape.hidden * _stream_bytes(config) + per_layer
    else:
        kept = shape.layers * per_layer
    # Before the layers and after them: embeddings, last norm and its input.
    ends = 2 * shape.hidden * (_stream_bytes(config) + 4)
    return tokens * (kept + ends + _working_bytes(shape, config))


def _has_backward(config: TrainConfig) -> bool:
    train = config.train
    return train.projector or train.vision_tower or train.language_model != "frozen"


def _stream_bytes(config: TrainConfig) -> int:
    """Return the bytes of one number of the residual stream: trained embeddings make it float32."""
    return 4 if config.train.language_model == "full" else _compute_bytes(config)


def _layer_bytes(shape: ModelShape, config: TrainConfig) -> int:
    """Return what autograd keeps of one decoder layer, per token.

    Frozen layers keep what their non-linear parts need: both norms' inputs in float32, queries,
    keys and values (repeated for all heads, where a mask is given), the result of attention, and
    three tensors of the MLP. Trained weights keep the inputs of their products too, each cast on
    its own, and LoRA a mask and a dropped-out copy of its input for each module.
    """
    width, hidden, inner = _compute_bytes(config), shape.hidden, shape.intermediate
    queries = shape.heads * shape.head_width
    kept = 2 * 4 * hidden + 4 * queries * width + 3 * inner * width
    kept += 4 * shape.heads + 2 * 4  # attention's and the norms' own sums
    match config.train.language_model:
        case "full":
            kept += 5 * hidden * width + 2 * 4 * hidden + (inner + queries) * width
        case "lora":
            sides = linear_layers(shape)
            modules = [sides[name] for name in set(config.lora.target_modules)]
            inputs = sum(inputs for inputs, _ in modules)
            dropped = 1 if config.lora.dropout else 0
            kept += inputs * (width + dropped) + len(modules) * config.lora.rank * width
        case "frozen":
            pass
    return kept


def _working_bytes(shape: ModelShape, config: TrainConfig) -> int:
    """Return what comes and goes within a layer, per token: gradients of the MLP and the stream."""
    width = _compute_bytes(config)
    own = 4 * shape.intermediate * width + 2 * shape.hidden * 4
    if config.train.language_model == "lora":  # PEFT gives its layers float32 inputs
        own += 3 * shape.intermediate * 4
    return own


def _vision_bytes(shape: ModelShape, config: TrainConfig, images: int) -> int:
    """Return what encoding takes: a frozen tower keeps its layers' outputs only, for the choice."""
    width = _compute_bytes(config)
    features = images * shape.image_tokens * (shape.tower_hidden + 4 * shape.hidden) * width
    if config.data.cache_features:
        return features
    patches = images * shape.image_patches
    per_patch = shape.tower_hidden * (shape.tower_states + 6) + 2 * shape.tower_intermediate
    if config.train.vision_tower:
        layer = 2 * 2 * shape.tower_hidden + 9 * shape.tower_hidden + 3 * shape.tower_intermediate
        checkpointed = config.model.gradient_checkpointing
        per_patch += layer * (1 if checkpointed else max(1, shape.tower_states - 1))
    return features + patches * per_patch * width
