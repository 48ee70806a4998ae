"""What a checkpoint's configuration says of its images, and what the tower gets of them."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from modeling.image_recipe import (
    CheckpointRecipe,
    ImageModeError,
    apply_recipe,
    pixel_values,
    recipe_of,
)
from modeling.tensor_shapes import image_sizes, with_defaults

CLIP_MEAN_RGB = (122, 116, 104)


def clip(side: int = 56, crop: int | None = None, **options: Any) -> Any:
    size = {"height": crop or side, "width": crop or side}
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size, **options)


def config(mode: object = None, **more: Any) -> dict[str, Any]:
    said = {} if mode is None else {"image_aspect_ratio": mode}
    return {"model_type": "llava", "vision_config": {"patch_size": 14}, **said, **more}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, CheckpointRecipe("crop", 56, 56, 56)),
        ("square", CheckpointRecipe("crop", 56, 56, 56)),
        ("pad", CheckpointRecipe("pad", 56, 56, 56, fill_rgb=CLIP_MEAN_RGB)),
        ("resize", CheckpointRecipe("resize", 56, 56, 56)),
        ("keep", CheckpointRecipe("keep", 56, 56, 56, patch_px=14)),
    ],
)
def test_the_choice_stands_in_the_configuration(asked: object, expected: CheckpointRecipe):
    assert recipe_of(config(asked), clip()) == expected


def test_a_processor_without_a_crop_may_pad_too():
    processor = SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=3)

    assert recipe_of(config(), processor) is None
    found = recipe_of(config("pad"), processor)
    assert found == CheckpointRecipe("pad", 56, 56, 56, fill_rgb=(127, 127, 127))


def test_other_architectures_read_no_mode_there():
    said = {"model_type": "llava_next", "image_aspect_ratio": "anyres"}

    assert recipe_of(said, clip()) == CheckpointRecipe("crop", 56, 56, 56)


@pytest.mark.parametrize("asked", ["anyres", "PAD", "", 7, ["pad"]])
def test_an_unknown_mode_is_refused(asked: object):
    with pytest.raises(ImageModeError, match="'square', 'pad', 'resize' and 'keep' are taken"):
        recipe_of(config(asked), clip())


@pytest.mark.parametrize(
    ("mode", "processor", "patch_px", "words"),
    [
        ("pad", clip(64, crop=56), 14, "to one square"),
        ("pad", clip(resample=2), 14, "to one square"),
        ("pad", clip(image_mean=[0.5], image_std=[0.5]), 14, "image_mean, of three channels"),
        ("keep", clip(60), 14, "needs a side of whole patches, not 60 px in patches of 14"),
        ("keep", clip(), None, "correct patch_size"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    mode: str, processor: Any, patch_px: int | None, words: str
):
    with pytest.raises(ImageModeError, match=words) as caught:
        recipe_of(config(mode, vision_config={"patch_size": patch_px}), processor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [None, "pad", "resize", "keep"])
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (56, 56), (300, 20)])
def test_the_tower_gets_the_recipes_pixels_normalised_and_nothing_else(
    mode: str | None, size: tuple[int, int]
):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, processor = Image.fromarray(noise), clip()
    recipe = recipe_of(config(mode), processor)
    assert recipe is not None
    ready = apply_recipe(image, recipe)

    found = pixel_values(image, processor, recipe)

    scaled = np.asarray(ready, dtype=np.float32) / 255
    expected = (scaled - processor.image_mean) / processor.image_std
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), atol=1e-6)
    assert np.array_equal(found, pixel_values(ready, processor, recipe))  # the gateway saw to it


def test_keep_takes_up_to_twice_the_tokens():
    full = with_defaults(
        {"model_type": "llava", "vision_config": {"image_size": 56, "patch_size": 14}}
    )

    assert image_sizes(full).tokens == 16
    assert image_sizes({**full, "image_aspect_ratio": "keep"}).tokens == 32
    assert image_sizes({**full, "image_aspect_ratio": "keep"}).patches == 33
