"""How large a vision-language model is: from its configuration, or from its files' headers.

Lives here: the sizes that memory depends on, and the groups of weights that sharding and
quantization treat alike; the same code sums up real headers and the tensors that a configuration
describes. No torch and no weights. What does *not* live here: those tensors (`tensor_shapes.py`),
and what fits where (`memory_forecast.py`, `planner.py`).
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from modeling.checkpoint_files import CheckpointFiles, open_checkpoint, read_json
from modeling.sharding import shards_vision_tower, sizes_that_divide
from modeling.tensor_shapes import (
    ARCHITECTURES,
    Shape,
    expected_tensors,
    image_sizes,
    with_defaults,
)
from modeling.vllm_limits import why_model_not_on_vllm

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

Group = Literal["matrices", "biases", "embedding", "head", "tower", "projector", "replicated"]
"""Of weights: `matrices` and `biases` of the language model's layers are sharded by every engine,
and matrices alone are quantized; `tower` and `projector` are what tensor parallelism may shard of
these; `replicated` is whole on every card (norms, positions, patch embedding)."""

_LAYER_TENSOR = re.compile(r"layers\.\d+\.(?:self_attn|mlp)\.(\w+_proj)\.(weight|bias)$")
_TOWER_TENSOR = re.compile(r"(?:layers|blocks)\.\d+\.(?:self_attn|attn|mlp)\.(\w+)\.(weight|bias)$")
_PROJECTOR_TENSOR = re.compile(r"linear_1\.(?:weight|bias)$|linear_2\.weight$")
_TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder")
_PROJECTORS = ("projector", "connector")
# Layers whose bias every rank holds whole; of the others it holds a part.
_ROW_WISE = frozenset({"o_proj", "down_proj", "out_proj", "fc2", "proj"})
_IN_WORDS: Mapping[Group, str] = {
    "matrices": "of the language model's layers",
    "biases": "biases of the language model's layers",
    "embedding": "of the embedding",
    "tower": "of the vision tower's layers",
    "projector": "of the projector",
}
_STORED = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class UnknownModelError(Exception):
    """A model whose size is not known here; the message is one line."""


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights of one `Group`: how many, and the outputs of its matrices (int8 scales each)."""

    elements: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory depends on.

    Args:
        architecture: `model_type` of the whole, such as llava.
        head_width: channels of one attention head.
        max_context: tokens, as the model says.
        dtype: that of the stored weights; None where nothing says it.
        image_tokens: most that one image takes of the context; 0: as many as fit.
        image_patches: positions of the vision tower for one image, all its tiles together; 0 with
            `image_tokens`.
        patches_per_token: of the vision tower, merged into one token of the language model.
        tower_states: layers whose output is kept until the features are chosen.
        has_masks: whether a prefill makes masks of context x context (sliding layers).
        ranks: numbers of cards that divide heads and widths.
        shards_vision: whether the transformers engine divides the vision tower too.
        vllm_problem: why vLLM cannot serve it, in one line; None where it can.
    """

    name: str
    architecture: str
    weights: Mapping[Group, WeightGroup]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    vocab: int
    max_context: int
    dtype: str | None
    image_tokens: int
    image_patches: int
    patches_per_token: int
    tower_hidden: int
    tower_intermediate: int
    tower_states: int
    has_masks: bool
    ranks: tuple[int, ...]
    shards_vision: bool
    vllm_problem: str | None

    @property
    def num_weights(self) -> int:
        """All weights, tied ones once."""
        return sum(group.elements for group in self.weights.values())

    def elements(self, group: Group) -> int:
        """Return the number of weights of a group."""
        return self.weights.get(group, WeightGroup()).elements


def preset_names() -> list[str]:
    """Return the names of the configurations that ship with this package."""
    folder = resources.files("modeling").joinpath("presets")
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir())


def preset_config(name: str) -> dict[str, Any]:
    """Return a preset's configuration, in the layout of config.json."""
    preset = resources.files("modeling").joinpath("presets", f"{name}.json")
    return json.loads(preset.read_text(encoding="utf-8"))["config"]


def read_shape(source: str) -> ModelShape:
    """Return the shape of a checkpoint directory, a config.json or a preset.

    Raises:
        CheckpointError: a directory is no checkpoint, or a file no JSON.
        UnknownModelError: no such preset or file, or an architecture that is not known here.
    """
    path = Path(source)
    if path.is_dir():
        return shape_of_files(open_checkpoint(path))
    if path.is_file():
        return shape_of_config(read_json(path), path.resolve().parent.name)
    names = preset_names()
    if source not in names:
        near = difflib.get_close_matches(source.lower(), names, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UnknownModelError(
            f"{source!r} is no directory, no config.json and no preset{meant} "
            f"(presets: {', '.join(names)})"
        )
    return shape_of_config(preset_config(source), source)


def shape_of_files(files: CheckpointFiles) -> ModelShape:
    """Return the shape of a checked directory: sizes from config.json, weights from the headers.

    Raises:
        UnknownModelError: the configuration lacks sizes, or the weights are quantized.
    """
    name = files.path.resolve().name
    if "quantization_config" in files.config:
        raise UnknownModelError(f"{name} is quantized already; its size is not known")
    stored: dict[str, int] = {}
    tensors: list[tuple[str, Shape]] = []
    for tensor, info in files.tensors.items():
        if info.dtype in _STORED:
            tensors.append((tensor, info.shape))
            stored[info.dtype] = stored.get(info.dtype, 0) + math.prod(info.shape)
    most = max(stored, key=lambda dtype: stored[dtype], default=None)
    return _shape(_full(files.config, name), name, tensors, None if most is None else _STORED[most])


def why_incomplete(files: CheckpointFiles) -> str | None:
    """Return one line on weights that config.json describes and no file holds; None: all are there.

    By sums, because names differ from one generation of checkpoints to the next. What a tied output
    layer saves is not asked for, and nothing of an architecture that is not known here.
    """
    name = files.path.resolve().name
    try:
        said, found = shape_of_config(files.config, name), shape_of_files(files)
    except UnknownModelError:
        return None
    for group in ("matrices", "biases", "embedding", "tower", "projector"):
        if found.elements(group) < said.elements(group):
            return (
                f"{files.path} is incomplete: its files hold {found.elements(group):,} of the "
                f"{said.elements(group):,} weights ({_IN_WORDS[group]}) that config.json "
                "describes; copy or convert it again"
            )
    return None


def shape_of_config(config: object, name: str) -> ModelShape:
    """Return the shape that a parsed config.json describes.

    Raises:
        UnknownModelError: it is no configuration of an architecture that is known here.
    """
    full = _full(config, name)
    try:
        tensors = expected_tensors(full)
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownModelError(
            f"the weights of {name} cannot be computed from its config.json ({error}); "
            "give the checkpoint's directory, whose headers say it"
        ) from error
    declared = full.get("dtype") or full.get("torch_dtype")
    return _shape(full, name, tensors.items(), declared if declared in DTYPE_BYTES else None)


def _full(config: object, name: str) -> dict[str, Any]:
    """Return a configuration with its architecture's defaults."""
    if not isinstance(config, dict):
        raise UnknownModelError(f"the config.json of {name} holds no JSON object")
    try:
        return with_defaults(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownModelError(
            f"the config.json of {name} does not say {error}; the planner knows "
            f"{', '.join(ARCHITECTURES)}, and what names its sizes like these"
        ) from error


def _shape(
    full: Mapping[str, Any], name: str, tensors: Iterable[tuple[str, Shape]], dtype: str | None
) -> ModelShape:
    text, vision = full["text_config"], full["vision_config"]
    images = image_sizes(full)
    depth = vision.get("num_hidden_layers", vision.get("depth", 0))
    is_llava = full["model_type"].startswith("llava")
    return ModelShape(
        name=name,
        architecture=full["model_type"],
        weights=group_weights(tensors, is_tied=full["tie_word_embeddings"]),
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_width=text["head_dim"],
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        max_context=text["max_position_embeddings"],
        dtype=dtype,
        image_tokens=images.tokens,
        image_patches=images.patches,
        patches_per_token=vision.get("spatial_merge_size", 1) ** 2,
        tower_hidden=vision.get("hidden_size", 0),
        tower_intermediate=vision.get("intermediate_size", 0),
        tower_states=depth + 1 if is_llava else 1,  # it asks for all hidden states
        has_masks="sliding_attention" in (text.get("layer_types") or ()),
        ranks=tuple(sizes_that_divide(full)),
        shards_vision=shards_vision_tower(full),
        vllm_problem=why_model_not_on_vllm(full),
    )


def group_weights(
    tensors: Iterable[tuple[str, Shape]], *, is_tied: bool
) -> dict[Group, WeightGroup]:
    """Sum tensors up by group; names as published checkpoints or as transformers 5 has them.

    Args:
        is_tied: the output layer is the embedding: one that is stored is not counted.
    """
    sums: dict[Group, WeightGroup] = {}
    for group, shape in _groups(tensors, is_tied=is_tied):
        old = sums.get(group, WeightGroup())
        rows = shape[0] if len(shape) == 2 else 0
        sums[group] = WeightGroup(old.elements + math.prod(shape), old.rows + rows)
    return sums


def _groups(
    tensors: Iterable[tuple[str, Shape]], *, is_tied: bool
) -> Iterator[tuple[Group, Shape]]:
    for name, shape in tensors:
        if not (is_tied and "lm_head" in name):
            yield _group(name), shape


def _group(name: str) -> Group:
    if any(part in name for part in _TOWERS):
        return "tower" if _is_sharded(_TOWER_TENSOR.search(name)) else "replicated"
    if any(part in name for part in _PROJECTORS):
        return "projector" if _PROJECTOR_TENSOR.search(name) else "replicated"
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    if not _is_sharded(_LAYER_TENSOR.search(name)):
        return "replicated"
    return "matrices" if name.endswith(".weight") else "biases"


def _is_sharded(found: re.Match[str] | None) -> bool:
    return found is not None and (found[2] == "weight" or found[1] not in _ROW_WISE)
