"""Deterministic image preprocessing, shared by gateway, training and evaluation: PIL, no torch.

Two steps. `normalise_to_rgb` makes 8-bit RGB of whatever was decoded. Then, for models with a
recipe (`image_recipe.py`), one of `apply_fixed_recipe`, `pad_to_square`, `resize_to_square` and
`keep_aspect`, which change nothing when they are applied to their own result; else `cap_pixels`.
What does *not* live here: opening files, limits on them
(`services/gateway/media/decode_process.py`), and rescaling and normalisation to floats (the model's
own processor).

How other modes become RGB:

- transparency (RGBA, LA, palette or grey with a transparent colour): composited on **white**, as
  browsers and vLLM show it (vllm/multimodal/image.py `rgba_to_rgb`). `Image.convert("RGB")` alone
  would bring up the invisible colours under transparent pixels.
- 16-bit grey (I;16, I, F): the full range 0..65535 is mapped linearly to 0..255, rounded; no
  window is guessed. (16-bit *colour* PNGs are already cut to their high byte by Pillow.)
- CMYK and others: Pillow's own conversion; colour profiles are dropped, not applied.
- EXIF orientation is applied; an EXIF block that cannot be read counts as upright.
- several frames: the first one.
"""

import struct

from PIL import ExifTags, Image

from modeling.image_sizes import kept_size

PREPROCESSING_VERSION = 1
"""Goes into every image key: raise it whenever the pixels that leave this module change."""

MAX_PIXELS = 1_048_576
"""Default of `cap_pixels`: 1024 x 1024, the largest square that the served models' towers use."""

MOST_PADDED_PX = 16_384
"""Longer images are shrunk to this before they are padded, which costs the square of the length
(measured: 2 s for this one)."""

# Rows per strip; bounds the extra memory of a conversion to 256 rows instead of a second image.
_STRIP_ROWS = 256
_BICUBIC = Image.Resampling.BICUBIC
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})

# EXIF 2.32, tag 0x0112
_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def normalise_to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` upright, as 8-bit RGB without any metadata; see the module for the rules.

    Takes the image over: what was RGB already is returned itself, its `info` emptied, and any other
    one is closed.
    """
    transpose = _TRANSPOSE_BY_ORIENTATION.get(_read_orientation(image))
    rgb = _to_rgb(image)
    if rgb is not image:
        image.close()  # its pixels are freed, whoever still holds it: one image's memory less
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    rgb.info = {}
    return rgb


def apply_fixed_recipe(
    image: Image.Image, *, shortest_edge_px: int, crop_width_px: int, crop_height_px: int
) -> Image.Image:
    """Resize the shorter side (bicubic), then cut the longer one around its centre.

    Afterwards transformers' `CLIPImageProcessorPil` with the same sizes resizes nothing and gives
    the same `pixel_values` as on the original. To keep that true for recipes whose crop is not the
    shortest edge, no more is cut than its own resize leaves alone: it crops or pads the rest.
    """
    # transformers/image_transforms.py, get_resize_output_image_size
    short, long = sorted(image.size)
    new_long = int(shortest_edge_px * long / short)
    is_wide = image.width > image.height
    new_size = (new_long, shortest_edge_px) if is_wide else (shortest_edge_px, new_long)
    resized = image.resize(new_size, resample=_BICUBIC)
    kept_long = _kept_length(shortest_edge_px, crop_width_px if is_wide else crop_height_px)
    # transformers/image_transforms.py, center_crop
    cut = max(new_long - kept_long, 0) // 2
    if new_long <= kept_long:
        return resized
    if is_wide:
        return resized.crop((cut, 0, cut + kept_long, shortest_edge_px))
    return resized.crop((0, cut, shortest_edge_px, cut + kept_long))


def pad_to_square(
    image: Image.Image, *, side_px: int, fill_rgb: tuple[int, int, int]
) -> Image.Image:
    """Put an RGB image in the middle of a square of `fill_rgb`, then resize that (bicubic).

    LLaVA's `pad`, with the rounding of its `expand2square` (arXiv:2310.03744). The square is never
    made: Pillow resizes row by row, then column by column, so strips of rows give the same pixels.
    """
    if image.size == (side_px, side_px):
        return image
    if max(image.size) > MOST_PADDED_PX:
        image = _shrunk(image, MOST_PADDED_PX)
    square_px = max(image.size)
    left, top = (square_px - image.width) // 2, (square_px - image.height) // 2
    bare_row = Image.new("RGB", (square_px, 1), fill_rgb).resize((side_px, 1), _BICUBIC)
    narrow = bare_row.resize((side_px, square_px), Image.Resampling.NEAREST)
    for start in range(0, image.height, _STRIP_ROWS):
        end = min(start + _STRIP_ROWS, image.height)
        strip = Image.new("RGB", (square_px, end - start), fill_rgb)
        strip.paste(image.crop((0, start, image.width, end)), (left, 0))
        narrow.paste(strip.resize((side_px, end - start), _BICUBIC), (0, top + start))
    return narrow.resize((side_px, side_px), _BICUBIC)


def resize_to_square(image: Image.Image, *, side_px: int) -> Image.Image:
    """Resize (bicubic) to a square, whatever the aspect was."""
    if image.size == (side_px, side_px):
        return image
    return image.resize((side_px, side_px), _BICUBIC)


def keep_aspect(image: Image.Image, *, side_px: int, patch_px: int) -> Image.Image:
    """Resize (bicubic) to whole patches, with the aspect as near as they allow; nothing is cut.

    Our reading of LLaVA-Med v1.0's `keep` (arXiv:2306.00890): the shorter side becomes `side_px`,
    or less where the longer one would exceed twice that.

    Args:
        side_px: a multiple of `patch_px`.
    """
    size = kept_size(*image.size, side_px=side_px, patch_px=patch_px)
    return image if image.size == size else image.resize(size, _BICUBIC)


def _shrunk(image: Image.Image, longest_px: int) -> Image.Image:
    scale = longest_px / max(image.size)
    width, height = (max(round(px * scale), 1) for px in image.size)
    return image.resize((width, height), _BICUBIC)


def cap_pixels(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return `image`, shrunk (bicubic with antialiasing, aspect kept) to at most `max_pixels`."""
    num_pixels = image.width * image.height
    if num_pixels <= max_pixels:
        return image
    scale = (max_pixels / num_pixels) ** 0.5
    new_size = (max(int(image.width * scale), 1), max(int(image.height * scale), 1))
    return image.resize(new_size, resample=_BICUBIC)


def _kept_length(shortest_edge_px: int, crop_px: int) -> int:
    """Return how much of the longer side to keep.

    Not less than the shorter side (it would become the shorter one and be enlarged again), and of
    the crop's parity, so that the two crops together lose the same columns as one would.
    """
    if crop_px >= shortest_edge_px:
        return crop_px
    return shortest_edge_px + (shortest_edge_px - crop_px) % 2


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, LookupError, TypeError, OSError, OverflowError, struct.error):
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert strip by strip: all conversions look at one pixel at a time."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        rgb.paste(_strip_to_rgb(image.crop(box)), box)
    return rgb


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode in _SIXTEEN_BIT_MODES:
        wide = strip if strip.mode == "F" else strip.convert("I")
        # 65535 / 255 = 257; Pillow truncates integers, hence + 0.5 (a tie cannot occur: 257 is odd)
        return wide.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if not strip.has_transparency_data:
        return strip.convert("RGB")
    rgba = strip.convert("RGBA")
    opaque = Image.new("RGB", strip.size, (255, 255, 255))
    opaque.paste(rgba, mask=rgba)
    return opaque
