import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modeling.image_processing import apply_fixed_recipe, cap_pixels, normalise_to_rgb

_ODD_SIZES = [
    (28, 28),
    (28, 301),
    (301, 29),
    (335, 337),
    (336, 336),
    (336, 337),
    (337, 336),
    (335, 335),
    (1023, 767),
    (640, 481),
    (481, 640),
    (500, 333),
    (57, 1999),
]


def _noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize(
    ("edge", "crop"), [(336, 336), (224, 224), (256, 224), (257, 224), (224, 256)]
)
@pytest.mark.parametrize(("width", "height"), _ODD_SIZES)
def test_the_models_own_processor_finds_nothing_left_to_do(
    width: int, height: int, edge: int, crop: int
):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": edge}, crop_size={"height": crop, "width": crop}
    )
    image = _noise(width, height)

    ready = apply_fixed_recipe(
        image, shortest_edge_px=edge, crop_width_px=crop, crop_height_px=crop
    )

    expected = processor(images=image, return_tensors="np")["pixel_values"]
    assert np.array_equal(processor(images=ready, return_tensors="np")["pixel_values"], expected)
    if edge == crop:
        assert ready.size == (crop, crop)


def test_a_crop_that_is_not_square_keeps_the_pixel_values():
    size, crop = {"shortest_edge": 224}, {"height": 224, "width": 300}
    processor = CLIPImageProcessorPil(size=size, crop_size=crop)
    for image in (_noise(901, 300), _noise(300, 901), _noise(250, 240)):
        ready = apply_fixed_recipe(
            image, shortest_edge_px=224, crop_width_px=300, crop_height_px=224
        )

        expected = processor(images=image, return_tensors="np")["pixel_values"]
        assert np.array_equal(
            processor(images=ready, return_tensors="np")["pixel_values"], expected
        )


@pytest.mark.parametrize("size", [(1024, 1024), (28, 5600), (800, 600)])
def test_an_image_within_the_cap_is_left_alone(size: tuple[int, int]):
    image = _noise(*size)

    assert cap_pixels(image) is image


@pytest.mark.parametrize("size", [(1025, 1024), (7000, 5700), (5700, 701), (16000, 100)])
def test_a_larger_image_is_brought_just_below_the_cap_with_its_aspect(size: tuple[int, int]):
    capped = cap_pixels(Image.new("RGB", size))

    assert 0.97 * 1_048_576 < capped.width * capped.height <= 1_048_576
    assert capped.width / capped.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_rgb_keeps_its_pixels():
    image = _noise(40, 30)

    assert normalise_to_rgb(image.copy()).tobytes() == image.tobytes()


def test_cmyk_golden_pixels():
    image = Image.new("CMYK", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 255))
    image.putpixel((3, 0), (51, 102, 153, 51))

    rgb = normalise_to_rgb(image)

    assert [_pixel(rgb, x) for x in range(4)] == [
        (255, 255, 255),
        (0, 255, 255),
        (0, 0, 0),
        (163, 122, 82),
    ]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_sixteen_bit_grey_maps_the_full_range_linearly(mode: str):
    values = np.array([[0, 128, 129, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    image = Image.fromarray(values.astype(dtype))
    assert image.mode == mode

    rgb = normalise_to_rgb(image)

    # value / 257, rounded
    expected = [0, 0, 1, 128, 254, 255, 255]
    assert [_pixel(rgb, x) for x in range(7)] == [(grey, grey, grey) for grey in expected]


def test_every_sixteen_bit_value_is_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(512, 128)

    rgb = np.asarray(normalise_to_rgb(Image.fromarray(values)))

    assert np.array_equal(rgb[..., 0], np.round(values / 257).astype(np.uint8))


def test_a_palette_with_alpha_is_composited_on_white():
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    image.info["transparency"] = bytes([255, 128, 0])

    rgb = normalise_to_rgb(image)

    assert [_pixel(rgb, x) for x in range(3)] == [(255, 0, 0), (127, 255, 127), (255, 255, 255)]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (200, 255), (200, 200, 200)),
        ("LA", (200, 0), (255, 255, 255)),
    ],
)
def test_alpha_is_composited_on_white(
    mode: str, colour: tuple[int, ...], expected: tuple[int, int, int]
):
    assert _pixel(normalise_to_rgb(Image.new(mode, (2, 2), colour))) == expected


def test_a_transparent_colour_of_an_rgb_or_grey_image_becomes_white():
    rgb, grey = Image.new("RGB", (2, 2), (1, 2, 3)), Image.new("L", (2, 2), 7)
    rgb.info["transparency"] = (1, 2, 3)
    grey.info["transparency"] = 7

    assert _pixel(normalise_to_rgb(rgb)) == (255, 255, 255)
    assert _pixel(normalise_to_rgb(grey)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        # which of the stored corners 1 2 / 3 4 stands where
        (1, "12/34"),
        (2, "21/43"),
        (3, "43/21"),
        (4, "34/12"),
        (5, "13/24"),
        (6, "31/42"),
        (7, "42/31"),
        (8, "24/13"),
        (99, "12/34"),
    ],
)
def test_exif_orientation_golden_pixels(orientation: int, corners: str):
    image = Image.new("RGB", (3, 2))
    for value, place in enumerate([(0, 0), (2, 0), (0, 1), (2, 1)], start=1):
        image.putpixel(place, (value, value, value))
    image.getexif()[0x0112] = orientation

    rgb = normalise_to_rgb(image)

    right, bottom = rgb.width - 1, rgb.height - 1
    seen = [_pixel(rgb, x, y)[0] for x, y in [(0, 0), (right, 0), (0, bottom), (right, bottom)]]
    assert "{}{}/{}{}".format(*seen) == corners


def test_images_taller_than_a_strip_are_converted_whole():
    image = _noise(8, 1000).convert("CMYK")
    expected = image.convert("RGB").tobytes()

    assert normalise_to_rgb(image).tobytes() == expected
