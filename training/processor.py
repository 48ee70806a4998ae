"""What of a checkpoint prompts and images need: its processor and a few facts. No weights.

Everything that makes a checkpoint unfit for training is said here, before a model is loaded. What
does *not* live here: the weights (`llava_training.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor

from modeling.checkpoint_files import CheckpointError, open_checkpoint, refuse_without_processor
from modeling.image_recipe import (
    CheckpointRecipe,
    ImageModeError,
    pixel_values,
    recipe_of,
)
from modeling.model_shape import why_incomplete
from training.errors import TrainingError

_SHAPES_PX = ((64, 64), (96, 32), (32, 96))
"""Of images that are tried: as many tokens for each, whatever its shape."""


@dataclass(frozen=True, slots=True)
class LlavaProcessing:
    """A LLaVA's processor, opened.

    Args:
        config: config.json, parsed.
        processor: of transformers, with a fast tokenizer; images by PIL.
        recipe: of its images; None leaves all to the processor.
        num_image_tokens: of one image: as many as the tower gives features.
        image_token_id: stands for one of them.
    """

    path: Path
    config: Mapping[str, Any]
    processor: Any
    recipe: CheckpointRecipe | None
    num_image_tokens: int
    image_token_id: int


def open_processing(path: Path, *, has_template: bool = False) -> LlavaProcessing:
    """Open a checkpoint's processor and check that the checkpoint can be trained.

    Args:
        has_template: a conversation template is chosen; else the checkpoint must have its own.

    Raises:
        TrainingError: it is no LLaVA in Hugging Face's layout, or what it needs is missing.
    """
    config = _config_of(path)
    processor = _load(path)
    if not has_template and not getattr(processor, "chat_template", None):
        raise TrainingError(
            f"{path} has no chat template; set model.conversation, or add chat_template.jinja to it"
        )
    try:
        recipe = recipe_of(config, processor.image_processor)
    except ImageModeError as error:
        raise TrainingError(f"{path}: {error}") from error
    if recipe is not None and recipe.mode == "keep":
        raise TrainingError(
            f"{path} keeps the aspect of images (image_aspect_ratio 'keep'), so each has another "
            "number of tokens, which is not trained yet; set 'pad', 'resize' or 'square'"
        )
    return LlavaProcessing(
        path=path,
        config=config,
        processor=processor,
        recipe=recipe,
        num_image_tokens=_num_image_tokens(path, config, processor, recipe),
        image_token_id=_image_token_id(path, config, processor),
    )


def _config_of(path: Path) -> dict[str, Any]:
    try:
        files = open_checkpoint(path)
        refuse_without_processor(path)
        problem = why_incomplete(files)
    except CheckpointError as error:
        raise TrainingError(f"model.path: {error}") from error
    if problem is not None:
        raise TrainingError(f"model.path: {problem}")
    kind = files.config.get("model_type")
    if kind != "llava":
        raise TrainingError(
            f"model.path: {path} is of model_type {kind!r}; only 'llava' is trained: take a LLaVA "
            "in Hugging Face's layout, or make one with `galen convert`"
        )
    return files.config


def _load(path: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(
            path, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise TrainingError(
            f"{path}: its processor cannot be loaded ({type(error).__name__}); copy the files of "
            "tokenizer and processor again"
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    is_whole = getattr(processor, "image_processor", None) is not None
    if not is_whole or getattr(tokenizer, "backend_tokenizer", None) is None:
        raise TrainingError(
            f"{path} has no image processor or no fast tokenizer; convert or copy it again"
        )
    return processor


def _num_image_tokens(
    path: Path, config: Mapping[str, Any], processor: Any, recipe: CheckpointRecipe | None
) -> int:
    """Return the features of one image, as transformers' LLaVA takes them from its tower."""
    shapes = {
        pixel_values(Image.new("RGB", size_px), processor.image_processor, recipe).shape
        for size_px in _SHAPES_PX
    }
    if len(shapes) > 1:
        raise TrainingError(
            f"{path}: its image processor gives images of several sizes, which is not trained yet; "
            "set crop_size in its preprocessor_config.json"
        )
    *_, height_px, width_px = shapes.pop()
    vision = config.get("vision_config") or {}
    side_px, patch_px = vision.get("image_size"), vision.get("patch_size")
    if height_px != width_px or width_px != side_px or not isinstance(patch_px, int):
        raise TrainingError(
            f"{path}: its image processor gives {width_px} x {height_px} px, its vision tower "
            f"takes {side_px} px in patches of {patch_px}; the files are of different checkpoints"
        )
    has_class_token = config.get("vision_feature_select_strategy", "default") == "full"
    return (height_px // patch_px) ** 2 + has_class_token


def _image_token_id(path: Path, config: Mapping[str, Any], processor: Any) -> int:
    named = (config.get(key) for key in ("image_token_id", "image_token_index"))
    said = next((value for value in named if isinstance(value, int)), None)
    own = getattr(processor, "image_token_id", None)
    if said is None or said != own:
        raise TrainingError(
            f"{path}: image_token_id is {json.dumps(said)} in config.json and {json.dumps(own)} in "
            "its processor; the files are of different checkpoints"
        )
    return said
