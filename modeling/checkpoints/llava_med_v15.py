"""LLaVA-Med v1.5 checkpoints into Hugging Face layout.

v1.5: Mistral-7B-Instruct with a projector of two layers and CLIP ViT-L/14 at 336 px, images padded
to squares (LLaVA-Med's code at commit d406e3f). The checkpoint holds a vision tower of its own,
which the published code does not load: it takes the stock one. Which is meant is the user's choice,
and `tower_difference` says what it is about.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken
from transformers import LlavaConfig, MistralConfig

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.config_values import (
    PUBLISHED_LAYER,
    chosen_mode,
    first_said,
    joined_config,
    needed,
    refuse_odd_values,
    set_ids,
)
from modeling.checkpoints.delta import PROJECTOR_PREFIX
from modeling.checkpoints.hf_layout import (
    TORCH_DTYPES,
    HfModel,
    Origin,
    check_origins,
    decoder_origins,
    most_common_dtype,
    refuse_converted,
    refuse_unused,
    tower_origins,
)
from modeling.checkpoints.model_files import read_copied_files
from modeling.checkpoints.tensor_source import TensorSource
from modeling.checkpoints.tokenizer_files import TokenizerFiles, read_tokenizer
from modeling.checkpoints.towers import CLIP_SETTINGS, Tower, clip_tower, why_not_trained_with
from modeling.conversation_templates import TEMPLATES, TemplateName

TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."
TowerChoice = Literal["checkpoint", "stock"]
_IMAGE_TOKEN, _PAD_TOKEN = "<image>", "<pad>"
_ROWS_MULTIPLE = 64  # as transformers' own converter pads (convert_llava_weights_to_hf.py)
_UNUSED = ("model.image_newline",)
_KNOWN_FEATURES = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
}
_LAYERS = {"0": "linear_1", "2": "linear_2"}


@dataclass(frozen=True, slots=True)
class V15Options:
    """What a user chooses.

    Args:
        vision_tower: the checkpoint's own, or the stock one that the published code loads.
        dtype: safetensors' name; None keeps the stored type.
        image_aspect_ratio: None: what the checkpoint says, else `pad`.
    """

    vision_tower: TowerChoice
    dtype: str | None = None
    image_aspect_ratio: str | None = None
    template: TemplateName = "mistral_instruct"


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How two tensors of one name differ.

    Args:
        largest: of all absolute differences, in float32.
        scale: largest absolute number of the second.
    """

    name: str
    largest: float
    scale: float


def read_v15(source: TensorSource, stock: Tower | None, options: V15Options) -> HfModel:
    """Return what a v1.5 checkpoint becomes; reads headers and small tensors only.

    Args:
        stock: CLIP from its own directory; may be None where the checkpoint's tower is taken.

    Raises:
        CheckpointError: it is no such checkpoint, or its files contradict one another.
    """
    path = source.path
    files = read_copied_files(path)
    refuse_other_kinds(source, files.config)
    tower = _chosen_tower(source, stock, options.vision_tower, files.config)
    tokenizer = read_tokenizer(path)
    special = _special_tokens(tokenizer, source)
    dtype = options.dtype or most_common_dtype(source)
    known = source.info("model.embed_tokens.weight").shape[0]
    rows = max(known, -(-tokenizer.size // _ROWS_MULTIPLE) * _ROWS_MULTIPLE)
    config = refuse_odd_values(lambda: _config(files.config, tower, tokenizer, rows, path), path)
    set_ids(config, tokenizer, special)
    config.dtype = TORCH_DTYPES[dtype]
    said = files.config.get("image_aspect_ratio")
    ratio = chosen_mode(options.image_aspect_ratio, said, "pad", path)
    config.image_aspect_ratio = ratio
    model = HfModel(
        origins=dict(_origins(source, tower, rows, options.vision_tower)),
        dtype=dtype,
        config=config,
        tower=tower,
        tokenizer=tokenizer,
        special=special,
        image_token=_IMAGE_TOKEN,
        image_text=_IMAGE_TOKEN,
        template=TEMPLATES[options.template],
        original=files.blobs,
        notes=tuple(_notes(source, options)),
    )
    check_origins(model, source)
    tower_names = {name for name in source.tensors if name.startswith(TOWER_PREFIX)}
    refuse_unused(model, source, "LLaVA-Med v1.5", {*_UNUSED, *tower_names})
    return model


def refuse_other_kinds(source: TensorSource, config: dict[str, Any]) -> None:
    """Refuse what is no v1.5 checkpoint, and say what it is.

    Raises:
        CheckpointError: v1.0, a converted one, or no LLaVA at all.
    """
    path, names = source.path, source.tensors
    if f"{PROJECTOR_PREFIX}0.weight" in names and f"{PROJECTOR_PREFIX}2.weight" in names:
        _refuse_other_features(path, config)
        return
    if f"{PROJECTOR_PREFIX}weight" in names:
        raise CheckpointError(
            f"{path} has the one-layer projector of v1.0: use `galen convert v1` for it"
        )
    refuse_converted(source)
    raise CheckpointError(
        f"{path} ({config.get('model_type')!r}) has no {PROJECTOR_PREFIX}0.weight: it is no "
        "LLaVA-Med v1.5, or a file of it is missing"
    )


def _refuse_other_features(path: Path, config: dict[str, Any]) -> None:
    for key, known in _KNOWN_FEATURES.items():
        said = config.get(key)
        if said is not None and said != known:
            raise CheckpointError(
                f"{path}/config.json: {key} is {said!r}; LLaVA-Med v1.5 has {known!r}, and nothing "
                "else is converted"
            )


def own_tower(source: TensorSource, described_by: Tower | None = None) -> Tower | None:
    """Return the vision tower inside a checkpoint; None where it has none.

    Args:
        described_by: the stock tower, for what tensors do not say.
    """
    if not any(name.startswith(TOWER_PREFIX) for name in source.tensors):
        return None
    known = {} if described_by is None else described_by.config
    config = {key: known[key] for key in CLIP_SETTINGS if key in known}
    folder = None if described_by is None else described_by.source.path
    return clip_tower(source, TOWER_PREFIX, config, folder)


def tower_difference(own: Tower, stock: Tower) -> list[TensorDifference]:
    """Compare two towers tensor by tensor, in the first one's type; the most different comes first.

    Raises:
        CheckpointError: they are of different shapes.
    """
    found: list[TensorDifference] = []
    for name, tensor in own.tensors.items():
        other = stock.tensors.get(name)
        if other is None or other.shape != tensor.shape:
            raise CheckpointError(
                f"{stock.source.path} is another tower than the checkpoint's: {name!r} differs in "
                "shape; v1.5 needs openai/clip-vit-large-patch14-336"
            )
        stored = tensor.read()
        # compared as stored: the stock one is published in float32, a checkpoint's is rounded
        mine, theirs = stored.float(), other.read().to(stored.dtype).float()
        largest = float((mine - theirs).abs().max())
        found.append(TensorDifference(name, largest, float(theirs.abs().max())))
    return sorted(found, key=lambda each: -each.largest / (each.scale or 1.0))


def with_tower_difference(model: HfModel, source: TensorSource, stock: Tower | None) -> HfModel:
    """Add to a model's notes how its checkpoint's tower differs from the stock one.

    Does nothing where one of them is not at hand. Reads both, about 1 GB.
    """
    own = None if stock is None else own_tower(source, stock)
    if own is None or stock is None:
        return model
    found = tower_difference(own, stock)
    worst = [
        {"tensor": each.name, "largest": each.largest, "scale": each.scale}
        for each in found
        if each.largest
    ]
    if worst:
        first = found[0]
        note = (
            f"the checkpoint's vision tower is not the stock one: {len(worst)} of {len(found)} "
            f"tensors differ, most in {first.name} (by {first.largest:.2g}, of {first.scale:.2g})"
        )
    else:
        note = f"the checkpoint's vision tower equals the stock one in all {len(found)} tensors"
    facts = {**model.facts, "tower_difference": worst}
    return replace(model, notes=(*model.notes, note), facts=facts)


def _chosen_tower(
    source: TensorSource, stock: Tower | None, choice: TowerChoice, config: dict[str, Any]
) -> Tower:
    if choice == "stock":
        if stock is None:
            raise CheckpointError(
                "--vision-tower stock needs --tower DIR: a folder with "
                "openai/clip-vit-large-patch14-336"
            )
        if own_tower(source) is None and (
            problem := why_not_trained_with(stock, config.get("mm_vision_tower"))
        ):
            raise CheckpointError(f"{source.path}: {problem}; give the right one with --tower")
        return stock
    own = own_tower(source, stock)
    if own is None:
        raise CheckpointError(
            f"{source.path} holds no vision tower: take --vision-tower stock --tower DIR"
        )
    return own


def _special_tokens(tokenizer: TokenizerFiles, source: TensorSource) -> dict[str, str]:
    """Return the special tokens by role; adds those of images and padding to the tokenizer."""
    special = tokenizer.needed_special(source.path)
    special["pad_token"] = _PAD_TOKEN
    for token in (_IMAGE_TOKEN, _PAD_TOKEN):
        added = AddedToken(token, normalized=False, special=True)
        tokenizer.tokenizer.add_special_tokens([added])
    return special


def _config(
    config: dict[str, Any], tower: Tower, tokenizer: TokenizerFiles, rows: int, path: Path
) -> LlavaConfig:
    theta = float(needed(config, "rope_theta", path))
    text = MistralConfig(
        vocab_size=rows,
        hidden_size=needed(config, "hidden_size", path),
        intermediate_size=needed(config, "intermediate_size", path),
        num_hidden_layers=needed(config, "num_hidden_layers", path),
        num_attention_heads=needed(config, "num_attention_heads", path),
        num_key_value_heads=needed(config, "num_key_value_heads", path),
        hidden_act=first_said(config.get("hidden_act"), "silu"),
        rms_norm_eps=needed(config, "rms_norm_eps", path),
        max_position_embeddings=needed(config, "max_position_embeddings", path),
        sliding_window=config.get("sliding_window"),
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
        architectures=["MistralForCausalLM"],
    )
    return joined_config(
        text,
        tower,
        tokenizer.known_id(_IMAGE_TOKEN),
        activation="gelu",
        feature_layer=first_said(config.get("mm_vision_select_layer"), PUBLISHED_LAYER),
    )


def _origins(
    source: TensorSource, tower: Tower, rows: int, choice: TowerChoice
) -> Iterator[tuple[str, Origin]]:
    yield from decoder_origins(source, rows)
    for number, layer in _LAYERS.items():
        for part in ("weight", "bias"):
            stored = source.info(f"{PROJECTOR_PREFIX}{number}.{part}")
            yield (
                f"multi_modal_projector.{layer}.{part}",
                Origin(stored, stored.shape, partial(source.read, stored.name)),
            )
    role = "checkpoint" if choice == "checkpoint" else "vision_tower"
    yield from tower_origins(tower, role)


def _notes(source: TensorSource, options: V15Options) -> Iterator[str]:
    if options.vision_tower == "checkpoint":
        yield "the checkpoint's own vision tower is served; the published code loads the stock one"
    else:
        yield "the stock vision tower is served, as the published code does, not the checkpoint's"
    for name in source.tensors:
        if name in _UNUSED:
            yield f"{name} was left out: this family does not use it"
