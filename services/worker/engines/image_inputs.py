"""Images as inputs of a LLaVA: pixels per image, and as many placeholders as it has patches.

What does *not* live here: how an image is resized (`modeling/image_recipe.py`) and where it stands
in a prompt (`chat_prompt.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import LlavaProcessor

from modeling.image_recipe import ImageRecipe, pixel_values

# Images of different sizes are no one tensor: `pixel_values.0`, `pixel_values.1`, ...
_ONE_OF_MANY = "pixel_values."


def image_inputs(
    images: Sequence[Image.Image], image_processor: Any, recipe: ImageRecipe | None
) -> dict[str, torch.Tensor]:
    """Return the pixels of a request's images, float32.

    One tensor `pixel_values` [N, 3, H, W]; with a recipe of mode `keep`, one of [1, 3, H, W] for
    each image, which `take_images` finds again.
    """
    pixels = [torch.from_numpy(pixel_values(i, image_processor, recipe)) for i in images]
    if not pixels:
        return {}
    if recipe is not None and recipe.mode == "keep":
        return {f"{_ONE_OF_MANY}{n}": image_1CHW for n, image_1CHW in enumerate(pixels)}
    return {"pixel_values": torch.cat(pixels)}


def take_images(inputs: dict[str, Any]) -> tuple[list[torch.Tensor], bool]:
    """Take the pixels of `image_inputs` out of `inputs`: one tensor [1, 3, H, W] for each image.

    Returns:
        Them, in their order, and whether their sizes may differ.
    """
    if "pixel_values" in inputs:
        return list(inputs.pop("pixel_values").split(1)), False
    names = sorted((n for n in inputs if n.startswith(_ONE_OF_MANY)), key=_number)
    return [inputs.pop(name) for name in names], True


def num_image_tokens(inputs: Mapping[str, torch.Tensor], processor: Any) -> Iterator[int]:
    """Yield how many tokens each image of `image_inputs` is: its patches, as LlavaProcessor counts.

    Args:
        processor: a LlavaProcessor, which says the side of a patch, and whether the class token is
            among the features.
    """
    for name in sorted(inputs, key=_number):
        count, _, height, width = inputs[name].shape
        yield from [_tokens(height, width, processor)] * count


def tokens_per_image(processor: Any, recipe: ImageRecipe | None) -> int:
    """Return how many tokens each image is, whatever its size; 0 where that depends on it.

    Args:
        recipe: that of the processor's checkpoint.
    """
    if type(processor) is not LlavaProcessor or recipe is None or recipe.mode == "keep":
        return 0
    return _tokens(recipe.crop_height_px, recipe.crop_width_px, processor)


def _tokens(height_px: int, width_px: int, processor: Any) -> int:
    more = processor.num_additional_image_tokens
    more -= processor.vision_feature_select_strategy == "default"
    patch_px = processor.patch_size
    return (height_px // patch_px) * (width_px // patch_px) + more


def expand(token_ids: Iterable[int], image_token_id: int, counts: Iterable[int]) -> list[int]:
    """Return token ids with each image's one placeholder repeated as `counts` says, in order."""
    left = iter(counts)
    return [
        token_id
        for given in token_ids
        for token_id in ([given] * next(left) if given == image_token_id else [given])
    ]


def _number(name: str) -> int:
    suffix = name.removeprefix(_ONE_OF_MANY)
    return int(suffix) if suffix.isdigit() else 0
