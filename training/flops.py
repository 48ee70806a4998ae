"""Arithmetic of one training step, peaks of cards, and MFU: no torch.

A product of matrices with P weights takes 2 P FLOPs per token forward, as much again for the
gradient of its input, and as much again for that of its weights: 6 P where all is trained
(arXiv:2001.08361, section 2.1; arXiv:2204.02311, appendix B). Frozen weights have no gradient of
their own: 4 P where something below them is trained, 2 P where nothing is (the vision tower).
Attention takes 4 x layers x width x T per token forward and twice that backward, without the half
that a causal mask saves (PaLM's appendix B: 12 L H Q T). MFU counts this and nothing else: what
gradient checkpointing computes a second time is arithmetic of the hardware, not of the model.

Counted as the trainer works: output layer at answer tokens only, attention within an example only.
The lookup of embeddings, norms and activations are left out, as there.
"""

import re
from dataclasses import dataclass

from modeling.model_shape import ModelShape
from training.config import TrainConfig
from training.weight_counts import count_weights, language_model_weights, projector_weights

# Dense bfloat16 with float32 accumulation, TFLOPS. NVIDIA's datasheets print the double of it,
# "with sparsity", where only one number stands.
_PEAKS: tuple[tuple[str, float], ...] = (
    (r"H200 NVL\b", 835.5),  # H200 datasheet: 1,671 with sparsity
    (r"H200\b", 989.4),  # the same, SXM: 1,979 with sparsity
    (r"H100 PCIe\b", 756.0),  # H100 datasheet (2023): 1,513 with sparsity
    (r"H100 NVL\b", 835.5),  # H100 datasheet: 1,671 with sparsity
    (r"H100\b", 989.4),  # the same, SXM: 1,979 with sparsity
    (r"A100\b", 312.0),  # A100 datasheet: 312 | 624 with sparsity
    (r"A10\b", 125.0),  # A10 datasheet: 125 | 250 with sparsity
    (r"L40S\b", 362.05),  # L40S datasheet: 362.05 | 733 with sparsity
    (r"L4\b", 121.0),  # L4 datasheet: 242 with sparsity
    # GeForce halves products that accumulate in float32; bfloat16 has no other.
    (r"RTX ?4090(?! ?(?:D|Laptop)\b)", 165.2),  # Ada architecture whitepaper, appendix A
    (r"RTX ?3090(?! ?Ti\b)", 71.0),  # GA102 architecture whitepaper, table 2
)
_PARTS_BACKWARD = 2  # gradients of input and of weights, each as much as the product itself


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a step computes, over all cards, without padding.

    Args:
        tokens: positions of the language model, image tokens among them.
        answer_tokens: at which the output layer is computed.
        images: that the vision tower encodes.
        attended_tokens: mean over tokens of the length of the example that each stands in.
    """

    tokens: float
    answer_tokens: float
    images: float
    attended_tokens: float


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of a step; `recomputed` is what gradient checkpointing computes again."""

    forward: float
    backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What MFU counts."""
        return self.forward + self.backward

    @property
    def hardware(self) -> float:
        """What takes time."""
        return self.model + self.recomputed


def step_flops(shape: ModelShape, config: TrainConfig, work: StepWork) -> StepFlops:
    """Return the FLOPs of a step of a recipe."""
    train = config.train
    is_full = train.language_model == "full"
    # Gradients pass through the language model down to what is trained in it or below it.
    passes = is_full or train.language_model == "lora" or train.projector or train.vision_tower
    products = 2 * shape.elements("matrices") * work.tokens
    attention = (
        4 * shape.layers * shape.heads * shape.head_width * work.attended_tokens * work.tokens
    )
    adapter = 2 * count_weights(shape, config).adapter * work.tokens
    head = 2 * shape.vocab * shape.hidden * work.answer_tokens
    decoder = products + attention + adapter
    vision_forward, vision_backward = _vision(shape, config, work.images)
    backward = (
        products * (passes + is_full)
        + _PARTS_BACKWARD * (attention * passes + adapter)
        + head * (passes + is_full)
        + vision_backward
    )
    recomputed = decoder if config.model.gradient_checkpointing else 0.0
    return StepFlops(decoder + head + vision_forward, backward, recomputed)


def _vision(shape: ModelShape, config: TrainConfig, images: float) -> tuple[float, float]:
    """Return forward and backward of tower and projector.

    The first layer of the projector passes its gradient on only where the tower is trained.
    """
    train = config.train
    projector = 2 * shape.elements("projector") * shape.image_tokens * images
    first = 2 * shape.tower_hidden * shape.hidden * shape.image_tokens * images
    tower = tower_flops(shape) * images
    backward = 0.0
    if train.projector:
        backward += projector
    if train.projector or train.vision_tower:
        backward += projector - first
    if train.vision_tower:
        backward += first + _PARTS_BACKWARD * tower
    return projector + (0 if config.data.cache_features else tower), backward


def tower_flops(shape: ModelShape) -> float:
    """Return the FLOPs of encoding one image: layers, their attention, and the patch embedding."""
    outside = shape.num_weights - shape.elements("tower")
    outside -= language_model_weights(shape) + projector_weights(shape)
    patch_embedding = max(0, outside - shape.image_patches * shape.tower_hidden)
    layers = max(0, shape.tower_states - 1)
    attention = 4 * layers * shape.tower_hidden * shape.image_patches**2
    return 2 * (shape.elements("tower") + patch_embedding) * shape.image_patches + attention


def peak_tflops(card: str, config: TrainConfig) -> float | None:
    """Return a card's dense peak in the recipe's precision, TFLOPS; None where it is not known.

    TF32 runs at half of bfloat16 on all of these cards (the same datasheets).

    Args:
        card: as the driver names it, or as `modeling.cards` does.
    """
    if config.devices.peak_tflops is not None:
        return config.devices.peak_tflops
    if config.model.precision == "fp32" and not config.model.tf32:
        return None
    share = 1.0 if config.model.precision == "bf16" else 0.5
    for pattern, tflops in _PEAKS:
        if re.search(rf"(?<![A-Za-z0-9]){pattern}", card, re.IGNORECASE):
            return share * tflops
    return None


def mfu(model_flops: float, seconds: float, tflops_of_all_cards: float) -> float:
    """Return model FLOPs utilisation: done per second over what the cards could at their peak."""
    return model_flops / seconds / (tflops_of_all_cards * 1e12)
