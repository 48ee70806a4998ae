"""The tensors that a configuration describes: names and shapes, per architecture. No torch.

A configuration on the hub leaves out what equals its architecture's defaults; those of transformers
5.19 stand here (`configuration_*.py` of each), and tests compare them with the library's models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
    },
    "qwen2": {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 32_768,
    },
    "gemma3_text": {
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131_072,
    },
    "qwen2_5_vl_text": {
        "vocab_size": 152_064, "hidden_size": 8192, "intermediate_size": 29_568,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "max_position_embeddings": 32_768,
    },
    "clip_vision_model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
    },
    "siglip_vision_model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
    },
    "vit": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
    },
    "qwen2_5_vl": {  # as vision_config; published ones say "qwen2_5_vl"
        "hidden_size": 3584, "intermediate_size": 3420, "depth": 32, "num_heads": 16,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "out_hidden_size": 3584,
    },
}  # fmt: skip
_TEXT_OF = {
    "gemma3": "gemma3_text",
    "llava": "llama",
    "llava_next": "llama",
    "qwen2_5_vl": "qwen2_5_vl_text",
}
ARCHITECTURES = tuple(_TEXT_OF)
"""`model_type`s whose tensors are known here."""
_VISION_OF = {
    "gemma3": "siglip_vision_model",
    "llava": "clip_vision_model",
    "llava_next": "clip_vision_model",
    "qwen2_5_vl": "qwen2_5_vl",
}
_TEXT_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
)  # fmt: skip
_LLAVA_TOWER: Mapping[str, Any] = {  # CLIP ViT-L/14 336 px, where LlavaConfig is not told
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
_DEFAULT_CONTEXT = 2048
_GEMMA_PATTERN = 6  # every sixth layer sees everything (arXiv:2503.19786, section 2)
_NEXT_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # LlavaNextConfig


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Of one image, at most: tokens of the context, positions of the tower; 0: the context's."""

    tokens: int
    patches: int


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with what its architecture's defaults fill in.

    Raises:
        KeyError: a size that has no default.
        TypeError, ValueError: a part is of another kind.
    """
    kind = str(config.get("model_type", ""))
    given = config.get("text_config")
    text = dict(given) if isinstance(given, dict) else dict(config)
    text_kind = text.get("model_type") if given else None
    text_kind = text_kind if text_kind in _DEFAULTS and text_kind != kind else _TEXT_OF.get(kind)
    text = {
        **_DEFAULTS.get(text_kind or "", {}),
        **{k: v for k, v in text.items() if v is not None},
    }
    text["model_type"] = text_kind or text.get("model_type", "")
    for key in _TEXT_SIZES:
        if type(text[key]) is not int or text[key] <= 0:
            raise ValueError(f"a whole number for {key}")
    text.setdefault("num_key_value_heads", text["num_attention_heads"])
    text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    text.setdefault("max_position_embeddings", _DEFAULT_CONTEXT)
    if kind == "gemma3" and "layer_types" not in text:
        every = text.get("sliding_window_pattern") or _GEMMA_PATTERN
        text["layer_types"] = [
            "full_attention" if (i + 1) % every == 0 else "sliding_attention"
            for i in range(text["num_hidden_layers"])
        ]
    return {
        **config,
        "model_type": kind,
        "text_config": text,
        "vision_config": _vision(config, kind),
        "tie_word_embeddings": _is_tied(config, kind, given if isinstance(given, dict) else {}),
    }


def own_context(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a model was made for; None where its configuration does not say."""
    given = config.get("text_config")
    text = given if isinstance(given, dict) else config
    kinds = (text.get("model_type"), _TEXT_OF.get(str(config.get("model_type"))))
    defaults = (_DEFAULTS.get(str(kind), {}) for kind in kinds)
    for holder in (text, config, *defaults):
        found = holder.get("max_position_embeddings")
        if isinstance(found, int) and found > 0:
            return found
    return None


def _vision(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    given = config.get("vision_config")
    if not isinstance(given, dict) and kind.startswith("llava"):
        given = _LLAVA_TOWER
    vision = {**given} if isinstance(given, Mapping) else {}
    own = vision.get("model_type")
    vision_kind = own if own in _DEFAULTS else _VISION_OF.get(kind)
    if vision_kind is None:
        return vision
    return {**_DEFAULTS[vision_kind], **vision, "model_type": vision_kind}


def _is_tied(config: Mapping[str, Any], kind: str, text: Mapping[str, Any]) -> bool:
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return kind == "gemma3" if said is None else bool(said)


def image_sizes(full: Mapping[str, Any]) -> ImageSizes:
    """Return how much one image is, at most."""
    vision = full.get("vision_config") or {}
    side, patch = vision.get("image_size"), vision.get("patch_size")
    if not isinstance(side, int) or not isinstance(patch, int):
        return ImageSizes(0, 0)
    grid = side // patch
    patches = grid * grid
    extra = 1 if vision["model_type"] in {"clip_vision_model", "vit"} else 0  # the class token
    kind = full["model_type"]
    if kind == "gemma3":
        return ImageSizes(full.get("mm_tokens_per_image", 256), patches)
    if kind == "llava" and full.get("image_aspect_ratio") == "keep":  # image_recipe.py
        patches *= 2  # the longer side is at most twice the shorter one
    if kind != "llava_next":
        return ImageSizes(patches, patches + extra)
    # Tiles of the best grid, one more of the whole image, and a separator per row of patches
    # (modeling_llava_next.py, pack_image_features).
    pinpoints = full.get("image_grid_pinpoints") or _NEXT_GRIDS
    tiles = max((h // side) * (w // side) for h, w in pinpoints)
    rows = max(h // patch for h, w in pinpoints if (h // side) * (w // side) == tiles)
    return ImageSizes((tiles + 1) * patches + rows, (tiles + 1) * (patches + extra))


def expected_tensors(full: Mapping[str, Any]) -> Shapes:
    """Return names and shapes of all tensors, as transformers 5 names them; tied ones once.

    Raises:
        KeyError, ValueError: no formula for this architecture.
    """
    vision, text, kind = full["vision_config"], full["text_config"], full["model_type"]
    if kind not in _TEXT_OF or text["model_type"] not in _DEFAULTS:
        raise ValueError(f"no formula for {kind or 'a model without model_type'}")
    shapes = _language_model(text)
    if not full["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (text["vocab_size"], text["hidden_size"])
    if kind == "qwen2_5_vl":
        return shapes | _qwen_tower(vision)
    if vision["model_type"] == "vit":
        shapes |= _vit_tower(vision)
    else:
        shapes |= _clip_tower(vision, is_siglip=vision["model_type"] == "siglip_vision_model")
    projector = "model.multi_modal_projector"
    if kind == "gemma3":
        shapes[f"{projector}.mm_input_projection_weight"] = (
            vision["hidden_size"],
            text["hidden_size"],
        )
        shapes[f"{projector}.mm_soft_emb_norm.weight"] = (vision["hidden_size"],)
        return shapes
    chosen = full.get("vision_feature_layer", -2)
    width = vision["hidden_size"] * (len(chosen) if isinstance(chosen, list) else 1)
    sides = ((text["hidden_size"], width), (text["hidden_size"], text["hidden_size"]))
    for number, shape in enumerate(sides, start=1):
        shapes[f"{projector}.linear_{number}.weight"] = shape
        if full.get("multimodal_projector_bias", True):
            shapes[f"{projector}.linear_{number}.bias"] = shape[:1]
    if kind == "llava_next":
        shapes["model.image_newline"] = (text["hidden_size"],)
    return shapes


def _language_model(text: Mapping[str, Any]) -> Shapes:
    hidden, width = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * text["head_dim"]
    values = text["num_key_value_heads"] * text["head_dim"]
    kind = text["model_type"]
    layer: Shapes = {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (values, hidden),
        "self_attn.v_proj.weight": (values, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (width, hidden),
        "mlp.up_proj.weight": (width, hidden),
        "mlp.down_proj.weight": (hidden, width),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    biased: list[str] = []
    if kind.startswith("qwen2"):
        biased = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    elif text.get("attention_bias"):
        biased = [f"self_attn.{name}_proj" for name in "qkvo"]
    if text.get("mlp_bias"):
        biased += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    layer |= {f"{name}.bias": layer[f"{name}.weight"][:1] for name in biased}
    if kind == "gemma3_text":
        layer |= {f"self_attn.{name}_norm.weight": (text["head_dim"],) for name in "qk"}
        layer |= {f"{name}_feedforward_layernorm.weight": (hidden,) for name in ("pre", "post")}
    return {
        "model.language_model.embed_tokens.weight": (text["vocab_size"], hidden),
        "model.language_model.norm.weight": (hidden,),
        **_repeated("model.language_model.layers", text["num_hidden_layers"], layer),
    }


def _clip_tower(vision: Mapping[str, Any], *, is_siglip: bool) -> Shapes:
    hidden, width = vision["hidden_size"], vision["intermediate_size"]
    patch = vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + (0 if is_siglip else 1)
    layer: Shapes = {f"layer_norm{n}.{part}": (hidden,) for n in (1, 2) for part in _BOTH}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer |= _linear(f"self_attn.{name}", hidden, hidden)
    layer |= _linear("mlp.fc1", width, hidden) | _linear("mlp.fc2", hidden, width)
    tower = "model.vision_tower"
    shapes: Shapes = {
        f"{tower}.embeddings.patch_embedding.weight": (hidden, 3, patch, patch),
        f"{tower}.embeddings.position_embedding.weight": (positions, hidden),
        **{f"{tower}.post_layernorm.{part}": (hidden,) for part in _BOTH},
        **_repeated(f"{tower}.encoder.layers", vision["num_hidden_layers"], layer),
    }
    if not is_siglip:
        shapes[f"{tower}.embeddings.class_embedding"] = (hidden,)
        return shapes | {f"{tower}.pre_layrnorm.{part}": (hidden,) for part in _BOTH}
    shapes[f"{tower}.embeddings.patch_embedding.bias"] = (hidden,)
    if vision.get("vision_use_head", True):
        head = f"{tower}.head"
        shapes |= {
            f"{head}.probe": (1, 1, hidden),
            f"{head}.attention.in_proj_weight": (3 * hidden, hidden),
            f"{head}.attention.in_proj_bias": (3 * hidden,),
            **_linear(f"{head}.attention.out_proj", hidden, hidden),
            **{f"{head}.layernorm.{part}": (hidden,) for part in _BOTH},
            **_linear(f"{head}.mlp.fc1", width, hidden),
            **_linear(f"{head}.mlp.fc2", hidden, width),
        }
    return shapes


def _vit_tower(vision: Mapping[str, Any]) -> Shapes:
    hidden, width, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    layer: Shapes = {
        f"layernorm_{n}.{part}": (hidden,) for n in ("before", "after") for part in _BOTH
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        layer |= _linear(f"attention.{name}", hidden, hidden)
    layer |= _linear("mlp.fc1", width, hidden) | _linear("mlp.fc2", hidden, width)
    tower = "model.vision_tower"
    positions = (vision["image_size"] // patch) ** 2 + 1
    return {
        f"{tower}.embeddings.cls_token": (1, 1, hidden),
        f"{tower}.embeddings.position_embeddings": (1, positions, hidden),
        f"{tower}.embeddings.patch_embeddings.projection.weight": (hidden, 3, patch, patch),
        f"{tower}.embeddings.patch_embeddings.projection.bias": (hidden,),
        **{f"{tower}.layernorm.{part}": (hidden,) for part in _BOTH},
        **_linear(f"{tower}.pooler.dense", hidden, hidden),
        **_repeated(f"{tower}.layers", vision["num_hidden_layers"], layer),
    }


def _qwen_tower(vision: Mapping[str, Any]) -> Shapes:
    hidden, width, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = hidden * vision["spatial_merge_size"] ** 2
    layer: Shapes = {
        "norm1.weight": (hidden,),
        "norm2.weight": (hidden,),
        **_linear("attn.qkv", 3 * hidden, hidden),
        **_linear("attn.proj", hidden, hidden),
        **_linear("mlp.gate_proj", width, hidden),
        **_linear("mlp.up_proj", width, hidden),
        **_linear("mlp.down_proj", hidden, width),
    }
    return {
        "model.visual.patch_embed.proj.weight": (
            hidden, 3, vision["temporal_patch_size"], patch, patch,
        ),
        "model.visual.merger.ln_q.weight": (hidden,),
        **_linear("model.visual.merger.mlp.0", merged, merged),
        **_linear("model.visual.merger.mlp.2", vision["out_hidden_size"], merged),
        **_repeated("model.visual.blocks", vision["depth"], layer),
    }  # fmt: skip


_BOTH = ("weight", "bias")


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _repeated(prefix: str, count: int, layer: Shapes) -> Shapes:
    return {f"{prefix}.{i}.{name}": shape for i in range(count) for name, shape in layer.items()}
