"""Which preprocessing a checkpoint was trained with, and the one function that applies it.

The choice is stored with the checkpoint: `image_aspect_ratio` in its config.json, LLaVA's own key,
for `model_type` llava:

- absent or `square` is mode `crop`: the shorter side is resized, the longer one cut (CLIP's);
- `pad`: a square of the processor's mean colour around it, then resized;
- `resize`: straight to the square;
- `keep`: the aspect is kept, and an image has as many tokens as it has patches.

Gateway, engines, training and evaluation all call `apply_recipe`; applying it twice changes
nothing. What does *not* live here: the pixels' arithmetic (`image_processing.py`). No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

from modeling.image_processing import (
    apply_fixed_recipe,
    keep_aspect,
    normalise_to_rgb,
    pad_to_square,
    resize_to_square,
)

if TYPE_CHECKING:
    import numpy as np  # the gateway's decoder does without

ImageMode = Literal["crop", "pad", "resize", "keep"]

ASPECT_KEY = "image_aspect_ratio"
"""In config.json (LLaVA's training code, `DataArguments`)."""

_MODES: Mapping[object, ImageMode] = {
    None: "crop", "square": "crop", "pad": "pad", "resize": "resize", "keep": "keep",
}  # fmt: skip
_BICUBIC = 3


class ImageModeError(ValueError):
    """A checkpoint asks for a preprocessing that is not known here; the message is one line."""


class ImageRecipe(Protocol):
    """A checkpoint's preprocessing, on the wire or not (`services.protocol.messages`)."""

    @property
    def mode(self) -> ImageMode: ...

    @property
    def shortest_edge_px(self) -> int: ...

    @property
    def crop_width_px(self) -> int: ...

    @property
    def crop_height_px(self) -> int: ...

    @property
    def fill_rgb(self) -> tuple[int, int, int]: ...

    @property
    def patch_px(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CheckpointRecipe:
    """What `recipe_of` found.

    Args:
        shortest_edge_px: equal to both crop sides, unless the mode is `crop`.
        fill_rgb: of `pad`; 0 to 255.
        patch_px: of `keep`: side of the tower's patches.
    """

    mode: ImageMode
    shortest_edge_px: int
    crop_width_px: int
    crop_height_px: int
    fill_rgb: tuple[int, int, int] = (0, 0, 0)
    patch_px: int = 0


def apply_recipe(image: Image.Image, recipe: ImageRecipe) -> Image.Image:
    """Return an image as the model's own processor is to get it; other modes than RGB become it."""
    if image.mode != "RGB":
        image = normalise_to_rgb(image.copy())
    side_px = recipe.crop_width_px
    match recipe.mode:
        case "pad":
            return pad_to_square(image, side_px=side_px, fill_rgb=recipe.fill_rgb)
        case "resize":
            return resize_to_square(image, side_px=side_px)
        case "keep":
            return keep_aspect(image, side_px=side_px, patch_px=recipe.patch_px)
        case "crop":
            return apply_fixed_recipe(
                image,
                shortest_edge_px=recipe.shortest_edge_px,
                crop_width_px=recipe.crop_width_px,
                crop_height_px=recipe.crop_height_px,
            )


def pixel_values(
    image: Image.Image, image_processor: Any, recipe: ImageRecipe | None
) -> "np.ndarray":
    """Return what the vision tower gets of one image: float32 [1, 3, H, W], normalised.

    Args:
        image: RGB, of any size.
        image_processor: the checkpoint's own, of transformers, with the PIL back end.
        recipe: None leaves everything to the processor.
    """
    options: dict[str, Any] = {}
    if recipe is not None:
        image = apply_recipe(image, recipe)
        if recipe.mode == "keep":
            options = {"do_resize": False, "do_center_crop": False}
    return image_processor(images=image, return_tensors="np", **options)["pixel_values"]


def recipe_of(config: Mapping[str, Any], image_processor: object) -> CheckpointRecipe | None:
    """Return a checkpoint's recipe; None where the processor alone knows it.

    Args:
        config: config.json, parsed.
        image_processor: of transformers.

    Raises:
        ImageModeError: the configuration asks for what cannot be done.
    """
    mode = mode_of(config)
    if mode == "crop":
        return _crop_of(image_processor)
    side_px = _square_side(image_processor)
    if not side_px:
        raise ImageModeError(
            f"{ASPECT_KEY} {mode!r} needs an image processor that resizes (bicubic) to one square; "
            "set its size and crop_size to the vision tower's side"
        )
    recipe = CheckpointRecipe(mode, side_px, side_px, side_px)
    if mode == "pad":
        return _with_fill(recipe, image_processor)
    return _with_patch(recipe, config) if mode == "keep" else recipe


def mode_of(config: Mapping[str, Any]) -> ImageMode:
    """Return the mode that a config.json asks for; of other architectures than llava, `crop`.

    Raises:
        ImageModeError: it is none of ours.
    """
    if config.get("model_type") != "llava":
        return "crop"
    asked = config.get(ASPECT_KEY)
    mode = _MODES.get(asked) if isinstance(asked, str | None) else None
    if mode is None:
        raise ImageModeError(
            f"{ASPECT_KEY} {asked!r} in config.json is unknown for model_type llava; "
            "'square', 'pad', 'resize' and 'keep' are taken (convert 'anyres' to llava_next)"
        )
    return mode


def _with_fill(recipe: CheckpointRecipe, image_processor: object) -> CheckpointRecipe:
    mean = getattr(image_processor, "image_mean", None) or ()
    if len(mean) != 3:
        raise ImageModeError(
            f"{ASPECT_KEY} 'pad' needs the processor's image_mean, of three channels; add it to "
            "preprocessor_config.json"
        )
    red, green, blue = (int(255 * value) for value in mean)  # as LLaVA rounds
    side_px = recipe.crop_width_px
    return CheckpointRecipe("pad", side_px, side_px, side_px, fill_rgb=(red, green, blue))


def _with_patch(recipe: CheckpointRecipe, config: Mapping[str, Any]) -> CheckpointRecipe:
    vision = config.get("vision_config") or {}
    side_px, patch_px = recipe.crop_width_px, vision.get("patch_size")
    if not isinstance(patch_px, int) or patch_px <= 0 or side_px % patch_px:
        raise ImageModeError(
            f"{ASPECT_KEY} 'keep' needs a side of whole patches, not {side_px} px in patches of "
            f"{patch_px!r}; correct patch_size in vision_config, or the processor's crop_size"
        )
    return CheckpointRecipe("keep", side_px, side_px, side_px, patch_px=patch_px)


def _crop_of(image_processor: object) -> CheckpointRecipe | None:
    """Return CLIP's recipe (arXiv:2103.00020) of a processor; None where it does something else."""
    shortest, width, height = (
        _size(image_processor, "size", "shortest_edge"),
        _size(image_processor, "crop_size", "width"),
        _size(image_processor, "crop_size", "height"),
    )
    is_cropped = bool(getattr(image_processor, "do_center_crop", False))
    if not (_resizes_bicubic(image_processor) and is_cropped and shortest and width and height):
        return None
    return CheckpointRecipe("crop", shortest, width, height)


def _square_side(image_processor: object) -> int:
    """Return the side of the one square that a processor makes of every image; 0: it does not."""
    crop = _crop_of(image_processor)
    if crop is not None:
        sides = {crop.shortest_edge_px, crop.crop_width_px, crop.crop_height_px}
    elif not getattr(image_processor, "do_center_crop", False):
        sides = {_size(image_processor, "size", name) for name in ("width", "height")}
    else:
        return 0
    return sides.pop() if len(sides) == 1 and _resizes_bicubic(image_processor) else 0


def _resizes_bicubic(image_processor: object) -> bool:
    resample = getattr(image_processor, "resample", None)
    return bool(getattr(image_processor, "do_resize", False)) and resample == _BICUBIC


def _size(image_processor: object, name: str, side: str) -> int:
    """Return an entry of a dict or of transformers' SizeDict; 0 where there is none."""
    sizes = getattr(image_processor, name, None) or {}
    value = sizes.get(side) if isinstance(sizes, dict) else getattr(sizes, side, None)
    return int(value or 0)
