"""The four ways of bringing an image to a model's size: properties, and golden pixels."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling.image_processing import (
    MOST_PADDED_PX,
    keep_aspect,
    pad_to_square,
    resize_to_square,
)
from modeling.image_recipe import CheckpointRecipe, ImageMode, apply_recipe
from modeling.image_sizes import kept_size
from tests.golden_files import GoldenFiles

FILL = (122, 116, 104)  # CLIP's mean colour, as LLaVA rounds it
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))
MODES: tuple[ImageMode, ...] = ("crop", "pad", "resize", "keep")


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def recipe(mode: ImageMode, side_px: int = 56) -> CheckpointRecipe:
    return CheckpointRecipe(mode, side_px, side_px, side_px, fill_rgb=FILL, patch_px=14)


def expanded_then_resized(image: Image.Image, side_px: int) -> Image.Image:
    """What LLaVA's `expand2square` and a resize give, with a square in memory."""
    square_px = max(image.size)
    square = Image.new("RGB", (square_px, square_px), FILL)
    square.paste(image, ((square_px - image.width) // 2, (square_px - image.height) // 2))
    return square.resize((side_px, side_px), Image.Resampling.BICUBIC)


@given(SIZES, st.integers(1, 120))
@settings(deadline=None)
def test_padding_in_strips_gives_the_pixels_of_the_whole_square(
    size: tuple[int, int], side_px: int
):
    image = noise(*size)

    padded = pad_to_square(image, side_px=side_px, fill_rgb=FILL)

    expected = image if image.size == (side_px, side_px) else expanded_then_resized(image, side_px)
    assert padded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(10_000, 500), (500, 10_000)])
def test_padding_a_long_image_takes_no_square_of_its_length(size: tuple[int, int]):
    image = Image.new("RGB", size, (1, 2, 3))
    most_px: list[int] = []
    make = Image.new

    def watched(mode: str, size: tuple[int, int], *rest: Any) -> Image.Image:
        most_px.append(size[0] * size[1])
        return make(mode, size, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "new", watched)
        padded = pad_to_square(image, side_px=336, fill_rgb=FILL)

    assert max(most_px) < 3_000_000  # of the square: 100 million
    assert padded.getpixel((168, 168)) == (1, 2, 3)
    assert padded.getpixel((0, 0)) == FILL


def test_an_image_too_long_for_the_square_is_shrunk_first():
    image = Image.new("RGB", (MOST_PADDED_PX + 1000, 200), (1, 2, 3))

    assert pad_to_square(image, side_px=56, fill_rgb=FILL).getpixel((0, 0)) == FILL


@given(SIZES, st.sampled_from(MODES))
@settings(max_examples=200, deadline=None)
def test_a_mode_applied_twice_is_as_once(size: tuple[int, int], mode: ImageMode):
    once = apply_recipe(noise(*size), recipe(mode))

    twice = apply_recipe(once, recipe(mode))

    assert twice.size == once.size
    assert twice.tobytes() == once.tobytes()


@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.integers(1, 4), st.integers(1, 24))
def test_kept_sizes_are_whole_patches_of_nearly_the_same_aspect(
    size: tuple[int, int], patch_px: int, grid: int
):
    side_px = patch_px * grid

    width, height = kept_size(*size, side_px=side_px, patch_px=patch_px)

    short, long = sorted((width, height))
    assert patch_px <= short <= side_px
    assert long <= 2 * side_px
    assert width % patch_px == height % patch_px == 0
    assert kept_size(width, height, side_px=side_px, patch_px=patch_px) == (width, height)
    assert short == side_px or long == 2 * side_px  # as large as the limits allow
    if size[0] > size[1]:
        assert width >= height
    else:
        assert height >= width
    # D7: each side is off by less than a patch from the exact aspect
    scale = min(side_px / min(size), 2 * side_px / max(size))
    for given_px, kept_px in zip(size, (width, height), strict=True):
        assert given_px * scale - patch_px < kept_px + 1e-6
        assert kept_px < given_px * scale + 1e-6 or kept_px == patch_px


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_another_kind_becomes_rgb_first(mode: ImageMode):
    clear = Image.new("RGBA", (90, 40), (255, 0, 0, 0))

    fitted = apply_recipe(clear, recipe(mode))

    assert fitted.mode == "RGB"
    assert fitted.getpixel((fitted.width // 2, fitted.height // 2)) == (255, 255, 255)
    assert clear.mode == "RGBA"


def test_keep_and_resize_cut_nothing():
    corners = Image.new("RGB", (300, 100))
    corners.paste((255, 0, 0), (0, 0, 150, 100))
    corners.paste((0, 0, 255), (150, 0, 300, 100))

    for image in (
        keep_aspect(corners, side_px=56, patch_px=14),
        resize_to_square(corners, side_px=56),
    ):
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.getpixel((image.width - 1, image.height - 1)) == (0, 0, 255)


# -------------------------------------------------------------------------------------- golden


def pattern(width: int, height: int) -> Image.Image:
    """A picture that every machine draws alike."""
    image = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            image.putpixel((x, y), (x * 255 // width, y * 255 // height, (x * y) % 256))
    return image


def test_pixels_of_all_modes_are_those_of_the_golden_file(golden: GoldenFiles):
    lines = ["mode size -> size sha256, then pixels: top left, left middle, middle, bottom right"]
    for mode in MODES:
        for size in ((90, 40), (40, 90), (56, 56), (30, 30), (300, 20)):
            image = apply_recipe(pattern(*size), recipe(mode))
            right, bottom = image.width - 1, image.height - 1
            places = ((0, 0), (0, bottom // 2), (right // 2, bottom // 2), (right, bottom))
            shown = " ".join(_hex(image.getpixel(place)) for place in places)
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            lines += [
                f"{mode:6} {size[0]}x{size[1]} -> {image.width}x{image.height} {digest}",
                f"       {shown}",
            ]
    golden.check("image_modes.txt", "\n".join(lines) + "\n")


def _hex(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    return "#" + "".join(f"{channel:02x}" for channel in pixel)
