"""What tensor parallelism can divide: heads and widths of a configuration. No torch."""

from collections.abc import Mapping
from typing import Any

from modeling.tensor_shapes import with_defaults

_SIZES = (
    ("num_attention_heads", "attention heads"),
    ("num_key_value_heads", "key-value heads"),
    ("intermediate_size", "channels of its MLP"),
)
_LLAVAS = ("llava", "llava_next")


def shards_vision_tower(config: Mapping[str, Any]) -> bool:
    """Whether a plan for the vision tower and the projector is known here: LLaVAs on CLIP."""
    tower = _part(config, "vision_config").get("model_type", "clip_vision_model")
    return config.get("model_type") in _LLAVAS and tower == "clip_vision_model"


def sharded_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return what every rank gets an equal part of, by name.

    Args:
        config: config.json of a vision-language model, parsed.
    """
    try:
        full: Mapping[str, Any] = with_defaults(config)
    except (KeyError, TypeError, ValueError):  # an unknown architecture: by what it says itself
        full = config
    parts = [("text_config", "language model")]
    if shards_vision_tower(config):
        parts.append(("vision_config", "vision tower"))
    sizes: dict[str, int] = {}
    for key, part in parts:
        section = _part(full, key)
        for name, words in _SIZES:
            size = section.get(name)
            if isinstance(size, int):
                sizes[f"{words} of the {part}"] = size
    return sizes


def sizes_that_divide(config: Mapping[str, Any], most: int = 8) -> list[int]:
    """Return the numbers of ranks, up to `most`, that divide everything."""
    sizes = sharded_sizes(config).values()
    return [ranks for ranks in range(1, most + 1) if all(size % ranks == 0 for size in sizes)]


def why_not_divisible(config: Mapping[str, Any], ranks: int) -> str | None:
    """Return one line on what `ranks` does not divide and what would do; None where all is well."""
    odd = [f"{size} {name}" for name, size in sharded_sizes(config).items() if size % ranks]
    if not odd:
        return None
    good = ", ".join(map(str, sizes_that_divide(config)))
    return (
        f"tensor-parallel size {ranks} does not divide {', '.join(odd)}; take one of {good}, "
        "or --device-map auto, which puts whole layers on each card"
    )


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    return section if isinstance(section, dict) else {}
