"""Vision towers of LLaVA-Med checkpoints: CLIP from its own directory, BiomedCLIP's ViT.

Lives here: geometry, preprocessing, and which stored tensor is which of transformers' tower. v1.0
kept its tower outside the checkpoint; v1.5 holds one of its own. What does *not* live here: the
projector and everything behind it.

CLIP: arXiv:2103.00020; ViT-L/14 with quick GELU. BiomedCLIP: arXiv:2303.00915; timm's ViT-B/16 in
open_clip's layout, with exact GELU and layer norms of 1e-6 (timm, vision_transformer.py).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from modeling.checkpoint_files import CheckpointError, read_json
from modeling.checkpoints.model_files import CONFIG
from modeling.checkpoints.tensor_source import StoredTensor, TensorSource, open_tensors, read_pickle

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's images, R G B (openai/CLIP, clip/clip.py, commit a1d0717)."""

OPEN_CLIP_WEIGHTS = "open_clip_pytorch_model.bin"
_TRUNK = "visual.trunk."
_CLIP_HEAD_WIDTH = 64  # of every CLIP ViT (arXiv:2103.00020, table 20)
_VIT_HEAD_WIDTH = 64
_SIDE = re.compile(r"patch\d+-(\d+)$")  # openai/clip-vit-large-patch14-336
_STOCK_SIDE = 224
_LAYER = re.compile(r"(?:encoder\.layers|blocks)\.(\d+)\.")
_VIT_LAYER: Mapping[str, str] = {
    "attention.o_proj": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


@dataclass(frozen=True, slots=True)
class TowerTensor:
    """A tensor of transformers' tower.

    Args:
        stored: what it is made of; None where it is not used and filled with zeros.
        read: makes it of the stored one, in the stored type.
    """

    stored: StoredTensor | None
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower.

    Args:
        kind: transformers' `model_type` of its configuration.
        config: that configuration.
        source: what its tensors come from.
        tensors: by transformers 5's name without prefix.
        side_px: of its square input.
        mean, std: of its input, R G B.
    """

    kind: Literal["clip_vision_model", "vit"]
    config: dict[str, Any]
    source: TensorSource
    tensors: dict[str, TowerTensor] = field(repr=False)
    side_px: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def width(self) -> int:
        """Channels of its features."""
        return self.config["hidden_size"]

    @property
    def num_patches(self) -> int:
        """Of one image."""
        return (self.side_px // self.config["patch_size"]) ** 2


def why_not_trained_with(tower: Tower, name: object) -> str | None:
    """Return one line on a tower that is another one than a checkpoint names; None: it may be.

    Args:
        name: `mm_vision_tower` of the checkpoint's config.json.
    """
    if not isinstance(name, str) or not name:
        return None
    is_vit = any(part in name.lower() for part in ("biomedclip", "biomed_clip"))
    if is_vit != (tower.kind == "vit"):
        return f"it was trained with {name}, and {tower.source.path} is another kind of tower"
    match = _SIDE.search(name)
    side = int(match[1]) if match else _STOCK_SIDE
    if not is_vit and side != tower.side_px:
        return (
            f"it was trained with {name} ({side} px), and {tower.source.path} takes "
            f"{tower.side_px} px"
        )
    return None


def read_tower(path: Path) -> Tower:
    """Read a tower's directory: a CLIP model in Hugging Face layout, or BiomedCLIP in open_clip's.

    Raises:
        CheckpointError: it is neither, or incomplete.
    """
    if (path / OPEN_CLIP_WEIGHTS).is_file():
        return biomedclip_tower(path)
    source = open_tensors(path)
    prefix = next(
        (p for p in ("vision_model.", "") if f"{p}embeddings.class_embedding" in source.tensors),
        None,
    )
    if prefix is None:
        raise CheckpointError(
            f"{path} holds no CLIP vision tower: give the folder of openai/clip-vit-large-patch14 "
            "(v1.0), openai/clip-vit-large-patch14-336 (v1.5), or BiomedCLIP with its "
            f"{OPEN_CLIP_WEIGHTS}"
        )
    file = path / CONFIG
    return clip_tower(source, prefix, read_json(file) if file.is_file() else {}, path)


def clip_tower(
    source: TensorSource, prefix: str, config: Mapping[str, Any], described_by: Path | None = None
) -> Tower:
    """Return the CLIP tower whose tensors have that prefix; its sizes are those of the tensors.

    Args:
        config: a configuration of CLIP, or of its vision part, for what tensors do not say.
        described_by: a directory whose preprocessor_config.json holds mean and deviation.

    Raises:
        CheckpointError: a tensor is missing, or its configuration describes another tower.
    """
    stored = {
        name.removeprefix(prefix): tensor
        for name, tensor in source.tensors.items()
        if name.startswith(prefix) and not name.endswith("position_ids")
    }
    if not prefix:
        stored = {n: t for n, t in stored.items() if n.startswith(_CLIP_PARTS)}
    given = config.get("vision_config", config) if isinstance(config, Mapping) else None
    if not isinstance(given, Mapping):
        raise CheckpointError(
            f"{source.path}: config.json describes no vision tower; copy it again"
        )
    sizes = _clip_sizes(source, prefix, stored)
    for key, size in sizes.items():
        if given.get(key, size) != size:
            raise CheckpointError(
                f"{source.path}: its tensors say {key} {size}, its config.json {given[key]}"
            )
    full = {
        "model_type": "clip_vision_model",
        **sizes,
        "num_attention_heads": sizes["hidden_size"] // _CLIP_HEAD_WIDTH or 1,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        **{key: given[key] for key in CLIP_SETTINGS if key in given},
    }
    heads = full["num_attention_heads"]
    if type(heads) is not int or heads < 1 or full["hidden_size"] % heads:
        raise CheckpointError(
            f"{source.path}: config.json says {heads!r} attention heads, which do not divide "
            f"{full['hidden_size']} channels; copy it again"
        )
    tensors = {
        name: TowerTensor(tensor, tensor.shape, partial(source.read, tensor.name))
        for name, tensor in stored.items()
    }
    mean, std = _statistics(described_by)
    return Tower("clip_vision_model", full, source, tensors, full["image_size"], mean, std)


_CLIP_PARTS = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
CLIP_SETTINGS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "projection_dim")
"""What a configuration says of a tower and its tensors do not."""


def biomedclip_tower(path: Path) -> Tower:
    """Return BiomedCLIP's vision tower out of open_clip's file, as transformers' ViT.

    LLaVA-Med took CLIP's mean and deviation with it, not BiomedCLIP's: so does this.

    Raises:
        CheckpointError: the file is damaged, or holds another model.
    """
    file = path / OPEN_CLIP_WEIGHTS
    pickled = read_pickle(file)
    known = {
        name: StoredTensor(name, "F32", (*tensor.shape,), file)
        for name, tensor in pickled.items()
        if name.startswith(_TRUNK) and tensor.dtype == torch.float32
    }
    source = TensorSource(path, known, pickled)
    patch = source.info(f"{_TRUNK}patch_embed.proj.weight").shape
    positions = source.info(f"{_TRUNK}pos_embed").shape
    width, num_layers = patch[0], _num_layers(known)
    if positions[-1] != width or len(patch) != 4 or num_layers < 3:
        raise CheckpointError(f"{file} is no ViT as BiomedCLIP's: its patch embedding is {patch}")
    side = round((positions[1] - 1) ** 0.5) * patch[2]
    config = {
        "model_type": "vit",
        "hidden_size": width,
        "intermediate_size": source.info(f"{_TRUNK}blocks.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // _VIT_HEAD_WIDTH or 1,
        "image_size": side,
        "patch_size": patch[2],
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "pooler_output_size": width,
    }
    return Tower("vit", config, source, _vit_tensors(source, width, num_layers), side)


def _vit_tensors(source: TensorSource, width: int, num_layers: int) -> dict[str, TowerTensor]:
    def whole(name: str, shape: tuple[int, ...] | None = None) -> TowerTensor:
        info = source.info(_TRUNK + name)
        shape = info.shape if shape is None else shape
        return TowerTensor(info, shape, lambda: source.read(info.name).reshape(shape))

    def third(name: str, index: int) -> TowerTensor:
        info = source.info(_TRUNK + name)
        shape = (width, *info.shape[1:])
        return TowerTensor(info, shape, lambda: source.read(info.name).chunk(3)[index])

    tensors = {
        "embeddings.cls_token": whole("cls_token"),
        "embeddings.position_embeddings": whole("pos_embed"),
    }
    for part in ("weight", "bias"):
        tensors[f"embeddings.patch_embeddings.projection.{part}"] = whole(
            f"patch_embed.proj.{part}"
        )
        tensors[f"layernorm.{part}"] = whole(f"norm.{part}")
        for layer in range(num_layers):
            mine, theirs = f"layers.{layer}", f"blocks.{layer}"
            for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
                tensors[f"{mine}.attention.{name}.{part}"] = third(
                    f"{theirs}.attn.qkv.{part}", index
                )
            for ours, original in _VIT_LAYER.items():
                tensors[f"{mine}.{ours}.{part}"] = whole(f"{theirs}.{original}.{part}")
    # transformers' class has a pooler, which LLaVA does not look at.
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        tensors[f"pooler.dense.{part}"] = TowerTensor(None, shape, partial(torch.zeros, shape))
    return tensors


def _clip_sizes(
    source: TensorSource, prefix: str, stored: Mapping[str, StoredTensor]
) -> dict[str, int]:
    patch = source.info(f"{prefix}embeddings.patch_embedding.weight").shape
    positions = source.info(f"{prefix}embeddings.position_embedding.weight").shape
    grid = round((positions[0] - 1) ** 0.5)
    if len(patch) != 4 or grid * grid + 1 != positions[0]:
        raise CheckpointError(
            f"{source.path}: {positions[0]} positions and patches of {patch} are no CLIP tower's"
        )
    return {
        "hidden_size": patch[0],
        "intermediate_size": source.info(f"{prefix}encoder.layers.0.mlp.fc1.weight").shape[0],
        "num_hidden_layers": _num_layers(stored),
        "image_size": grid * patch[2],
        "patch_size": patch[2],
    }


def _num_layers(names: Mapping[str, object]) -> int:
    found = [int(match[1]) for name in names if (match := _LAYER.search(name))]
    return max(found, default=-1) + 1


def _statistics(path: Path | None) -> tuple[Any, Any]:  # three numbers each
    file = None if path is None else path / "preprocessor_config.json"
    said = read_json(file) if file is not None and file.is_file() else {}
    said = said if isinstance(said, dict) else {}
    mean, std = said.get("image_mean", CLIP_MEAN), said.get("image_std", CLIP_STD)
    if not all(_is_of_three(each) for each in (mean, std)):
        raise CheckpointError(f"{file}: image_mean and image_std must be three numbers each")
    return tuple(mean), tuple(std)


def _is_of_three(value: object) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return len(value) == 3 and all(isinstance(number, float | int) for number in value)
