"""Values of an original config.json on their way into transformers' configuration.

What is missing, odd or of another model is one line here, before anything is written. What does
*not* live here: which values a generation has (`llava_med_v1.py`, `llava_med_v15.py`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.tokenizer_files import TokenizerFiles
from modeling.checkpoints.towers import Tower
from modeling.image_recipe import ASPECT_KEY, ImageModeError, mode_of

PUBLISHED_LAYER = -2
"""`mm_vision_select_layer` of every published run of LLaVA-Med."""


def joined_config(
    text: PreTrainedConfig,
    tower: Tower,
    image_token_id: int,
    *,
    activation: str,
    feature_layer: int,
) -> LlavaConfig:
    """Return how language model, projector and tower belong together.

    Args:
        activation: between the projector's two layers.
        feature_layer: of the tower's hidden states, the embeddings being 0; negative from the end.
    """
    return LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=image_token_id,
        projector_hidden_act=activation,
        multimodal_projector_bias=True,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy="default",  # without the class token
        image_seq_length=tower.num_patches,
        tie_word_embeddings=False,
        architectures=["LlavaForConditionalGeneration"],
    )


def needed(config: Mapping[str, Any], key: str, path: Path) -> Any:
    """Return an entry of config.json; raises CheckpointError where it is missing."""
    if config.get(key) is None:
        raise CheckpointError(f"{path}/config.json has no {key}: copy it from its publisher again")
    return config[key]


def first_said(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)


def refuse_odd_values(make: Callable[[], LlavaConfig], path: Path) -> LlavaConfig:
    """Return a configuration; raises CheckpointError where a value is none that a model has."""
    try:
        config = make()
        config.validate()
    except CheckpointError:
        raise
    except Exception as error:  # transformers has an error of its own per kind of mistake
        what = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}/config.json has a value that no model has ({what}): copy it from its "
            "publisher again"
        ) from error
    vision, text = _parts(config)
    layers = vision.num_hidden_layers
    if not -layers - 1 <= config.vision_feature_layer <= layers:
        raise CheckpointError(
            f"{path}/config.json: mm_vision_select_layer {config.vision_feature_layer} is outside "
            f"a tower of {layers} layers; published runs have {PUBLISHED_LAYER}"
        )
    activation = text.hidden_act
    if activation not in ACT2FN:
        raise CheckpointError(f"{path}/config.json: hidden_act {activation!r} is not known")
    return config


def chosen_mode(asked: str | None, said: object, default: str, path: Path) -> str:
    """Return what is done with images that are not square: asked, or said by config.json.

    Raises:
        CheckpointError: it is none of ours.
    """
    mode = asked or said or default
    try:
        mode_of({"model_type": "llava", ASPECT_KEY: mode})
    except ImageModeError as error:
        raise CheckpointError(f"{path}: {error}; choose with --image-aspect-ratio") from error
    return str(mode)


def set_ids(config: LlavaConfig, tokenizer: TokenizerFiles, special: Mapping[str, str]) -> None:
    """Put the tokenizer's ids into the language model's configuration."""
    for role in ("bos_token", "eos_token", "pad_token"):
        setattr(config.text_config, f"{role}_id", tokenizer.known_id(special[role]))


def _parts(config: LlavaConfig) -> tuple[Any, Any]:
    """Return vision and text configuration; their types allow what they never are."""
    return config.vision_config, config.text_config
