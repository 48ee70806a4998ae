"""LLaVA-Med v1.0 (and LLaVA v0) checkpoints into Hugging Face layout.

v1.0: LLaMA with a projector of one linear layer and CLIP ViT-L/14 outside the checkpoint
(arXiv:2306.00890; its code at commit b9a98a7). The one layer becomes transformers' two: the first
is it, the activation is none, the second the identity, which is exact in every type.

What v1.0's files say wrongly is put right here: ids in config.json are those of no tokenizer, the
beginning of a sequence is `</s>`, and no end was ever trained but the text `###`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlavaConfig

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
from modeling.checkpoints.delta import PROJECTOR_PREFIX, is_delta
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
from modeling.checkpoints.tensor_source import DTYPES, TensorSource
from modeling.checkpoints.tokenizer_files import TokenizerFiles, read_tokenizer
from modeling.checkpoints.towers import Tower, why_not_trained_with
from modeling.conversation_templates import TEMPLATES, TemplateName

PATCH_TOKEN, START_TOKEN, END_TOKEN = "<im_patch>", "<im_start>", "<im_end>"
_CONTEXT = 2048  # of LLaMA-1 (arXiv:2302.13971); no v1.0 checkpoint has more


@dataclass(frozen=True, slots=True)
class V1Options:
    """What a user may choose.

    Args:
        dtype: safetensors' name; None keeps the stored type.
        bos_token: None takes the one that the checkpoint's files name.
        template: how it is asked.
        image_aspect_ratio: what is done with images that are not square; None: what the checkpoint
            says, else `square`, which cuts the centre out.
    """

    dtype: str | None = None
    bos_token: str | None = None
    template: TemplateName = "v0"
    image_aspect_ratio: str | None = None


def read_v1(source: TensorSource, tower: Tower, options: V1Options) -> HfModel:
    """Return what a v1.0 checkpoint becomes; reads headers and small tensors only.

    Raises:
        CheckpointError: it is no such checkpoint, or its files contradict one another.
    """
    path = source.path
    files = read_copied_files(path)
    refuse_other_kinds(source, files.config)
    tokenizer = read_tokenizer(path, swallows_spaces=True)
    dtype = options.dtype or most_common_dtype(source)
    rows = source.info("model.embed_tokens.weight").shape[0]
    special, image_text = _special_tokens(tokenizer, options, path, files.config)
    if tokenizer.size > rows:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.size} tokens, the embedding {rows} rows: they "
            "are not of one checkpoint"
        )
    said = files.config.get("image_aspect_ratio")
    ratio = chosen_mode(options.image_aspect_ratio, said, "square", path)
    if problem := why_not_trained_with(tower, files.config.get("mm_vision_tower")):
        raise CheckpointError(f"{path}: {problem}; give the right one with --tower")
    config = refuse_odd_values(lambda: _config(files.config, tower, tokenizer, rows, path), path)
    set_ids(config, tokenizer, special)
    config.dtype = TORCH_DTYPES[dtype]
    config.image_aspect_ratio = ratio
    model = HfModel(
        origins=dict(_origins(source, tower, rows, dtype)),
        dtype=dtype,
        config=config,
        tower=tower,
        tokenizer=tokenizer,
        special=special,
        image_token=PATCH_TOKEN,
        image_text=image_text,
        template=TEMPLATES[options.template],
        original=files.blobs,
        notes=tuple(_notes(files.config, tokenizer, special)),
    )
    check_origins(model, source)
    refuse_unused(model, source, "LLaVA-Med v1.0")
    return model


def refuse_other_kinds(source: TensorSource, config: dict[str, Any]) -> None:
    """Refuse what is no merged v1.0 checkpoint, and say what it is.

    Raises:
        CheckpointError: v1.5, a delta, a converted one, or no LLaVA at all.
    """
    path, names = source.path, source.tensors
    if f"{PROJECTOR_PREFIX}weight" in names:
        if is_delta(source):
            raise CheckpointError(
                f"{path} is a delta, not a model: first run `galen convert apply-delta --base "
                f"LLAMA-7B --delta {path} --out DIR`, and convert DIR"
            )
        return
    if f"{PROJECTOR_PREFIX}0.weight" in names:
        raise CheckpointError(
            f"{path} has the two-layer projector of v1.5: use `galen convert v15` for it"
        )
    refuse_converted(source)
    raise CheckpointError(
        f"{path} ({config.get('model_type')!r}) has no {PROJECTOR_PREFIX}weight: it is no LLaVA; "
        "if this is the base of a delta, run `galen convert apply-delta` first"
    )


def _special_tokens(
    tokenizer: TokenizerFiles, options: V1Options, path: Path, config: dict[str, Any]
) -> tuple[dict[str, str], str]:
    """Return the special tokens by role, and what stands for an image."""
    special = tokenizer.needed_special(path)
    if options.bos_token is not None:
        if tokenizer.id_of(options.bos_token) is None:
            raise CheckpointError(f"--bos {options.bos_token!r} is no token of {path}")
        special["bos_token"] = options.bos_token
    special.setdefault("unk_token", "<unk>")
    special.setdefault("pad_token", special["unk_token"])
    if tokenizer.id_of(PATCH_TOKEN) is None:
        raise CheckpointError(
            f"{path}: the tokenizer has no {PATCH_TOKEN}: its added_tokens.json is missing"
        )
    has_ends = all(tokenizer.id_of(token) is not None for token in (START_TOKEN, END_TOKEN))
    if config.get("mm_use_im_start_end", has_ends) and not has_ends:
        raise CheckpointError(
            f"{path} asks for {START_TOKEN} and {END_TOKEN} (mm_use_im_start_end), the tokenizer "
            "has them not: its added_tokens.json is of another checkpoint"
        )
    wrapped = f"{START_TOKEN}{PATCH_TOKEN}{END_TOKEN}"
    return special, wrapped if config.get("mm_use_im_start_end", has_ends) else PATCH_TOKEN


def _config(
    config: dict[str, Any], tower: Tower, tokenizer: TokenizerFiles, rows: int, path: Path
) -> LlavaConfig:
    heads = needed(config, "num_attention_heads", path)
    text = LlamaConfig(
        vocab_size=rows,
        hidden_size=needed(config, "hidden_size", path),
        intermediate_size=needed(config, "intermediate_size", path),
        num_hidden_layers=needed(config, "num_hidden_layers", path),
        num_attention_heads=heads,
        num_key_value_heads=first_said(config.get("num_key_value_heads"), heads),
        hidden_act=first_said(config.get("hidden_act"), "silu"),
        rms_norm_eps=first_said(config.get("rms_norm_eps"), 1e-6),
        max_position_embeddings=context_of(config),
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    return joined_config(
        text,
        tower,
        tokenizer.known_id(PATCH_TOKEN),
        activation="linear",
        feature_layer=first_said(config.get("mm_vision_select_layer"), PUBLISHED_LAYER),
    )


def context_of(config: dict[str, Any]) -> int:
    """Return the tokens of a context; v1.0 calls them `max_sequence_length`."""
    return first_said(
        config.get("max_position_embeddings"), config.get("max_sequence_length"), _CONTEXT
    )


def _origins(
    source: TensorSource, tower: Tower, rows: int, dtype: str
) -> Iterator[tuple[str, Origin]]:
    yield from decoder_origins(source, rows)
    width = source.info("model.embed_tokens.weight").shape[1]
    for part in ("weight", "bias"):
        stored = source.info(PROJECTOR_PREFIX + part)
        yield (
            f"multi_modal_projector.linear_1.{part}",
            Origin(stored, stored.shape, partial(source.read, stored.name)),
        )
    identity = partial(torch.eye, width, dtype=DTYPES[dtype])
    yield (
        "multi_modal_projector.linear_2.weight",
        Origin(None, (width, width), identity, is_copy=False),
    )
    yield (
        "multi_modal_projector.linear_2.bias",
        Origin(None, (width,), partial(torch.zeros, width), is_copy=False),
    )
    yield from tower_origins(tower, "vision_tower")


def _notes(
    config: dict[str, Any], tokenizer: TokenizerFiles, special: dict[str, str]
) -> Iterator[str]:
    wrong: list[str] = []
    for role in ("bos_token", "eos_token", "pad_token"):
        said, found = config.get(f"{role}_id"), tokenizer.known_id(special[role])
        if said is not None and said != found:
            wrong.append(f"{role}_id {said} -> {found}")
    if wrong:
        yield f"ids in config.json were put right by the tokenizer's: {', '.join(wrong)}"
    own, chosen = tokenizer.special.get("bos_token"), special["bos_token"]
    if own != chosen:
        yield f"prompts begin with {chosen!r}, as --bos says; {tokenizer.bos_from} says {own!r}"
    elif own == special["eos_token"]:
        yield f"prompts begin with {own!r}, as this checkpoint was trained ({tokenizer.bos_from})"
    if config.get("mm_vision_select_layer") is None:
        yield f"config.json has no mm_vision_select_layer: {PUBLISHED_LAYER}, as published runs"
    if not config.get("mm_vision_tower"):
        yield "config.json has no mm_vision_tower: whether --tower is the right one is not known"
    if "mm_use_im_start_end" not in config:
        yield "config.json has no mm_use_im_start_end: decided by the tokenizer's tokens"
