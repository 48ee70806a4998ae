"""What vLLM does otherwise with a checkpoint than transformers, or not at all. No torch."""

from collections.abc import Mapping
from typing import Any

NO_ACTIVATION = ("linear", "identity")
"""`projector_hidden_act` of one-layer projectors (LLaVA v0, LLaVA-Med v1.0), for transformers."""
VLLM_NO_ACTIVATION = "torch.nn.modules.linear.Identity"
"""The same for vLLM, which knows neither of these names."""

# vllm 0.32, model_executor/models/llava.py, init_vision_tower_for_llava
_TOWERS = frozenset({"clip_vision_model", "siglip_vision_model", "pixtral"})


def why_model_not_on_vllm(config: Mapping[str, Any]) -> str | None:
    """Return one line on what vLLM lacks for a LLaVA; None where nothing is known to be missing.

    Args:
        config: config.json, parsed.
    """
    if config.get("model_type") != "llava":
        return None
    vision = config.get("vision_config")
    tower = vision.get("model_type", "clip_vision_model") if isinstance(vision, dict) else None
    if tower is not None and tower not in _TOWERS:
        return (
            f"vLLM's LLaVA has no vision tower of type {tower!r} (such as BiomedCLIP's); serve it "
            "with --engine transformers"
        )
    if config.get("image_aspect_ratio") == "keep":
        return (
            "image_aspect_ratio 'keep' in config.json: vLLM's LLaVA takes images of one size only; "
            "serve it with --engine transformers, or convert it with --image-aspect-ratio pad"
        )
    return None
