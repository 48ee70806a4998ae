"""How many weights a recipe trains and how many it leaves frozen: arithmetic, no torch.

Exact for LLaVA with a decoder of Llama's layout (Llama, Vicuna, Mistral, Qwen2) and a projector
with biases; of other models a few norms are counted with the vision tower. What does *not* live
here: bytes (`training_memory.py`) and arithmetic (`flops.py`).
"""

from dataclasses import dataclass

from modeling.model_shape import ModelShape
from training.config import LoraConfig, TrainConfig
from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Numbers of weights.

    Args:
        language_model: with embedding, output layer and norms, without adapters.
        adapter: of LoRA, all trained.
        new_rows: of the embedding, trained though the rest of it is frozen.
        quantised: frozen matrices of the language model in 4 bits; part of `frozen`.
    """

    language_model: int
    projector: int
    tower: int
    adapter: int
    new_rows: int
    trained: int
    quantised: int

    @property
    def frozen(self) -> int:
        """All that is not trained."""
        total = self.language_model + self.projector + self.tower
        return total + self.adapter + self.new_rows - self.trained


def count_weights(shape: ModelShape, config: TrainConfig) -> WeightCounts:
    """Return what a recipe makes of a model.

    Raises:
        TrainingError: LoRA is asked for on a layer that there is none of.
    """
    train = config.train
    projector = projector_weights(shape)
    language = language_model_weights(shape)
    tower = shape.num_weights - language - projector
    adapter = adapter_weights(shape, config.lora) if train.language_model == "lora" else 0
    # With the whole embedding trained, its new rows are among it.
    new_rows = 0 if train.language_model == "full" else len(train.new_tokens) * shape.hidden
    trained = adapter + new_rows
    trained += projector if train.projector else 0
    trained += language if train.language_model == "full" else 0
    trained += tower if train.vision_tower else 0
    quantised = shape.elements("matrices") if config.model.quantisation else 0
    return WeightCounts(language, projector, tower, adapter, new_rows, trained, quantised)


def projector_weights(shape: ModelShape) -> int:
    """Return all weights of the projector; its last bias stands in the `replicated` group."""
    last_bias = shape.hidden if shape.architecture.startswith("llava") else 0
    return shape.elements("projector") + last_bias


def language_model_weights(shape: ModelShape) -> int:
    """Return all weights of the decoder: two norms per layer and a last one beside its matrices."""
    norms = (2 * shape.layers + 1) * shape.hidden
    groups = ("matrices", "biases", "embedding", "head")
    return norms + sum(shape.elements(group) for group in groups)


def adapter_weights(shape: ModelShape, lora: LoraConfig) -> int:
    """Return LoRA's weights: rank x (inputs + outputs) per layer (arXiv:2106.09685, section 4.1).

    Raises:
        TrainingError: a target module is no linear layer of the decoder.
    """
    sides = linear_layers(shape)
    unknown = [name for name in lora.target_modules if name not in sides]
    if unknown:
        raise TrainingError(
            f"lora.target_modules: {unknown[0]!r} is no linear layer of {shape.name}; "
            f"take some of {', '.join(sides)}"
        )
    per_layer = sum(sum(sides[name]) for name in set(lora.target_modules))
    return shape.layers * lora.rank * per_layer


def linear_layers(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each linear layer of one decoder layer."""
    hidden, width = shape.hidden, shape.intermediate
    queries, values = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, values),
        "v_proj": (hidden, values),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, width),
        "up_proj": (hidden, width),
        "down_proj": (width, hidden),
    }
