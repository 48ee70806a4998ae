import io
import time
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from modeling.image_recipe import apply_recipe
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.image_store import MAX_STORED_BYTES
from services.protocol.messages import ImageRecipe
from tests.gateway.media import image_files
from tests.gateway.media.decoding import decode, peak_rss_kib, pixels, refusal
from tests.gateway.media.image_files import b64, noise, saved

_CLIP = ImageRecipe(shortest_edge_px=336, crop_width_px=336, crop_height_px=336)
_CANARY = b"CANARY-Mustermann-1234"


# ------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
async def test_a_small_image_comes_back_as_its_raw_pixels(decoder: ImageDecoder, image_format: str):
    image = noise(200, 100)

    decoded = await decode(decoder, saved(image, image_format, lossless=True), image_format.lower())

    assert (decoded.width, decoded.height, decoded.mode) == (200, 100, "RGB")
    assert (decoded.encoding, decoded.data) == ("rgb8", image.tobytes())
    assert decoded.source_pixels == 20_000


async def test_a_jpeg_comes_back_as_pillow_decodes_it(decoder: ImageDecoder):
    file = saved(noise(200, 100), "JPEG")

    decoded = await decode(decoder, file, "jpg")

    assert decoded.data == Image.open(io.BytesIO(file)).tobytes()


async def test_a_recipe_gives_the_models_input_size(decoder: ImageDecoder):
    decoded = await decode(decoder, saved(noise(900, 500), "PNG"), recipe=_CLIP)

    assert (decoded.width, decoded.height, decoded.encoding) == (336, 336, "rgb8")
    assert decoded.source_pixels == 450_000


@pytest.mark.parametrize("mode", ["crop", "pad", "resize", "keep"])
async def test_every_mode_gives_the_pixels_that_training_and_engines_take(
    decoder: ImageDecoder, mode: Literal["crop", "pad", "resize", "keep"]
):
    recipe = ImageRecipe(56, 56, 56, mode=mode, fill_rgb=(122, 116, 104), patch_px=14)
    image = noise(200, 90)

    decoded = await decode(decoder, saved(image, "PNG"), recipe=recipe)

    assert decoded.data == apply_recipe(image, recipe).tobytes()
    assert (decoded.width, decoded.height) == ((112, 42) if mode == "keep" else (56, 56))


@pytest.mark.parametrize("size", [(28 * 200, 28), (28, 28 * 200), (14_000, 2800), (2800, 14_000)])
async def test_padding_the_longest_images_stays_within_the_decoders_limits(
    decoder: ImageDecoder, size: tuple[int, int]
):
    recipe = ImageRecipe(336, 336, 336, mode="pad", fill_rgb=(122, 116, 104))

    decoded = await decode(decoder, image_files.png(*size, bits=1), recipe=recipe)

    assert (decoded.width, decoded.height) == (336, 336)


async def test_a_drawing_above_one_mebibyte_is_stored_without_loss(decoder: ImageDecoder):
    drawing = Image.new("RGB", (1000, 1000), "white")
    drawing.paste((200, 0, 0), (100, 100, 300, 900))

    decoded = await decode(decoder, saved(drawing, "PNG"))

    assert decoded.encoding == "png"
    assert pixels(decoded).tobytes() == drawing.tobytes()


async def test_a_photograph_is_stored_as_jpeg_of_at_most_one_mebibyte(decoder: ImageDecoder):
    decoded = await decode(decoder, saved(noise(2000, 1500), "PNG", compress_level=1))

    assert decoded.encoding == "jpeg"
    assert len(decoded.data) <= MAX_STORED_BYTES
    assert decoded.width * decoded.height <= 1_048_576
    pixels(decoded).load()


async def test_the_payload_may_stand_at_the_end_of_a_text_or_be_bytes(decoder: ImageDecoder):
    image = noise(30, 40)
    payload = b64(saved(image, "PNG"))

    in_text = await decoder.decode("data:," + payload, "image/png", payload_start=6)
    as_bytes = await decoder.decode(payload.encode(), "image/png")

    assert in_text.data == as_bytes.data == image.tobytes()


async def test_forty_megapixels_are_taken(decoder: ImageDecoder):
    decoded = await decode(decoder, image_files.png(6250, 6400, bits=1), recipe=_CLIP)

    assert decoded.source_pixels == 40_000_000


async def test_the_hungriest_images_stay_below_512_mebibytes():
    rotated = Image.new("RGBA", (7000, 5700), (1, 2, 3, 100))
    exif = rotated.getexif()
    exif[0x0112] = 6
    cmyk, webp = Image.new("CMYK", rotated.size), Image.new("RGBA", (5600, 5000))
    async with ImageDecoder(num_children=1, cpu_limit_s=30, wall_limit_s=60) as decoder:
        await decode(decoder, saved(rotated, "PNG", exif=exif, compress_level=1))
        await decode(decoder, saved(cmyk, "JPEG", progressive=True), "jpeg")
        await decode(decoder, saved(webp, "WEBP", method=0, quality=0), "webp")
        assert peak_rss_kib(decoder.child_pids[0]) < 512 * 1024


async def test_cmyk_16_bit_palette_and_rotated_images_have_golden_pixels(decoder: ImageDecoder):
    cmyk = Image.new("CMYK", (32, 32), (51, 102, 153, 51))
    grey = Image.fromarray(np.full((32, 32), 32768, dtype=np.uint16))
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    rotated = Image.new("RGB", (40, 30))
    rotated.paste((250, 250, 250), (0, 0, 20, 30))
    exif = rotated.getexif()
    exif[0x0112] = 6

    cmyk_seen = await decode(decoder, saved(cmyk, "JPEG", quality=100), "jpeg")
    grey_seen = await decode(decoder, saved(grey, "PNG"))
    palette_seen = await decode(decoder, saved(palette, "PNG", transparency=bytes([255, 128])))
    rotated_seen = await decode(decoder, saved(rotated, "PNG", exif=exif))

    assert set(pixels(grey_seen).getcolors() or []) == {(1024, (128, 128, 128))}
    assert set(pixels(palette_seen).getcolors() or []) == {(1024, (127, 255, 127))}
    red, green, blue = cmyk_seen.data[:3]
    assert max(abs(red - 163), abs(green - 122), abs(blue - 82)) <= 2
    assert (rotated_seen.width, rotated_seen.height) == (30, 40)
    assert pixels(rotated_seen).getpixel((0, 0)) == (250, 250, 250)
    assert pixels(rotated_seen).getpixel((0, 39)) == (0, 0, 0)


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param("!!!!", id="66 not base64"),
        pytest.param("AAA", id="67 bad padding"),
        pytest.param("AAAA====", id="67 too much padding"),
        pytest.param(" " * 4_000_000, id="67 space bomb"),
        pytest.param("AA\r\n" * 100_000, id="67 line breaks"),
        pytest.param("AA-_", id="URL-safe alphabet"),
        pytest.param("AAA\u00e4", id="not ASCII"),
        pytest.param("", id="70 empty"),
    ],
)
async def test_what_is_not_base64_is_an_invalid_image(decoder: ImageDecoder, payload: str):
    with pytest.raises(RequestError) as caught:
        await decoder.decode(payload, "image/png")

    assert caught.value.code == ErrorCode.INVALID_IMAGE


@pytest.mark.parametrize("name", image_files.OTHER_TYPES)
async def test_71_other_types_are_unsupported(decoder: ImageDecoder, name: str):
    code = await refusal(decoder, image_files.OTHER_TYPES[name])

    assert code == ErrorCode.UNSUPPORTED_IMAGE_TYPE


@pytest.mark.parametrize("file", [b"\0", b"\x00\x01\x02\x03" * 100, noise(5, 4).tobytes()])
async def test_bytes_of_no_known_type_are_an_invalid_image(decoder: ImageDecoder, file: bytes):
    assert await refusal(decoder, b"\x00" + file) == ErrorCode.INVALID_IMAGE


async def test_a_type_other_than_the_declared_one_is_an_invalid_image(decoder: ImageDecoder):
    with pytest.raises(RequestError, match="declared as image/jpeg but its bytes are PNG"):
        await decode(decoder, saved(noise(30, 30), "PNG"), "jpeg")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
async def test_72_a_truncated_image_is_invalid(
    decoder: ImageDecoder, image_format: str, kept: float
):
    file = saved(noise(300, 300), image_format)

    code = await refusal(decoder, file[: int(len(file) * kept)], image_format.lower())

    assert code == ErrorCode.INVALID_IMAGE


async def test_74_a_one_bit_bomb_is_too_large(decoder: ImageDecoder):
    bomb = image_files.one_bit_bomb()
    start = time.monotonic()

    assert await refusal(decoder, bomb) == ErrorCode.IMAGE_TOO_LARGE
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        pytest.param(image_files.png(65_535, 65_535, pixels=b""), "png", id="75 png"),
        pytest.param(image_files.png(2**31 - 1, 2**31 - 1, pixels=b""), "png", id="largest png"),
        pytest.param(image_files.jpeg_of_declared_size(65_535, 65_535), "jpeg", id="75 jpeg"),
        pytest.param(image_files.webp_of_declared_size(16_383, 16_383), "webp", id="75 webp"),
        pytest.param(image_files.webp_of_declared_size(6000, 5001), "webp", id="30 MP webp"),
        pytest.param(image_files.png(6330, 6336), "png", id="76 40.1 MP"),
    ],
)
async def test_too_many_pixels_are_refused_by_the_header(
    decoder: ImageDecoder, file: bytes, kind: str
):
    assert await refusal(decoder, file, kind) == ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("place", ["before_pixels", "after_pixels"])
@pytest.mark.parametrize(("name", "bomb"), image_files.text_bombs().items())
async def test_77_compressed_metadata_bombs_are_invalid_within_a_second(
    decoder: ImageDecoder, name: str, bomb: bytes, place: str
):
    early, late = (bomb, b"") if place == "before_pixels" else (b"", bomb)
    file = image_files.png(64, 64, before_pixels=early, after_pixels=late)
    start = time.monotonic()

    assert await refusal(decoder, file) == ErrorCode.INVALID_IMAGE
    assert time.monotonic() - start < 1


async def test_78_only_the_first_frame_of_an_apng_is_decoded(decoder: ImageDecoder):
    file = image_files.apng(10_000)
    start = time.monotonic()

    decoded = await decode(decoder, file)

    assert decoded.data == bytes(3 * 64 * 64)
    assert time.monotonic() - start < 1


async def test_78_only_the_first_frame_of_an_animated_webp_is_decoded(decoder: ImageDecoder):
    frames = [Image.new("RGB", (64, 64), (shade % 256, 0, 0)) for shade in range(300)]
    file = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)

    decoded = await decode(decoder, file, "webp")

    assert decoded.data == bytes(3 * 64 * 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (27, 27), (27, 28), (28, 27)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
async def test_81_too_small_images(decoder: ImageDecoder, size: tuple[int, int], image_format: str):
    code = await refusal(decoder, saved(noise(*size), image_format), image_format.lower())

    assert code == ErrorCode.IMAGE_TOO_SMALL


async def test_the_smallest_side_and_the_thinnest_strip_are_taken(decoder: ImageDecoder):
    assert (await decode(decoder, saved(noise(28, 28), "PNG"))).width == 28
    assert (await decode(decoder, image_files.png(28 * 200, 28), recipe=_CLIP)).width == 336
    assert await refusal(decoder, image_files.png(28 * 200 + 1, 28)) == ErrorCode.IMAGE_TOO_SMALL


async def test_a_jpeg_of_a_million_segments_ends_with_its_cpu_time():
    jpeg = saved(noise(64, 64), "JPEG")
    file = jpeg[:2] + b"\xff\xfe\x00\x04ab" * 3_000_000 + jpeg[2:]
    async with ImageDecoder(num_children=1, cpu_limit_s=0.5) as decoder:
        (pid,) = decoder.child_pids

        assert await refusal(decoder, file, "jpeg") == ErrorCode.INVALID_IMAGE
        assert decoder.child_pids != [pid]


async def test_an_image_beyond_the_childs_memory_is_invalid():
    async with ImageDecoder(num_children=1, max_pixels=10_000_000_000) as decoder:
        code = await refusal(decoder, image_files.png(50_000, 50_000, bits=1, pixels=b""))

    assert code == ErrorCode.INVALID_IMAGE


# ------------------------------------------------------------------------------- what is lost


def _with_canaries(image: Image.Image, image_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = _CANARY.decode()  # ImageDescription
    exif.get_ifd(0x8825)[29] = _CANARY.decode()  # GPSDateStamp
    profile = b"\0" * 128 + _CANARY
    xmp = b"<x:xmpmeta>" + _CANARY + b"</x:xmpmeta>"
    if image_format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Patient", _CANARY.decode())
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return saved(image, "PNG", exif=exif, icc_profile=profile, pnginfo=text)
    comment = {"comment": _CANARY} if image_format == "JPEG" else {}
    return saved(image, image_format, exif=exif, icc_profile=profile, xmp=xmp, **comment)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", ["small", "drawing", "photograph"])
async def test_85_86_no_metadata_and_no_tail_come_through(
    decoder: ImageDecoder, image_format: str, kind: str
):
    image = {
        "small": noise(64, 64),
        "drawing": Image.new("RGB", (900, 900), "navy"),
        "photograph": noise(900, 900),
    }[kind]
    polyglot = _with_canaries(image, image_format) + b"PK\x03\x04<script>" + _CANARY
    assert polyglot.count(_CANARY) >= 4

    decoded = await decode(decoder, polyglot, image_format.lower())

    assert _CANARY not in decoded.data
    assert b"PK\x03\x04<script>" not in decoded.data
    assert not pixels(decoded).getexif()
    if decoded.encoding == "png":
        names = {decoded.data[at + 4 : at + 8] for at, _ in _png_chunks(decoded.data)}
        assert names == {b"IHDR", b"IDAT", b"IEND"}


def _png_chunks(file: bytes) -> list[tuple[int, int]]:
    starts = [8]
    while starts[-1] < len(file):
        starts.append(starts[-1] + 12 + int.from_bytes(file[starts[-1] : starts[-1] + 4], "big"))
    return list(pairwise(starts))


async def test_refusals_say_nothing_of_the_image_and_no_address(decoder: ImageDecoder):
    text = image_files.chunk(b"tEXt", b"Patient\0" + _CANARY)
    file = image_files.png(64, 64, before_pixels=text, pixels=b"damaged")

    with pytest.raises(RequestError) as caught:
        await decode(decoder, file)

    assert _CANARY.decode() not in caught.value.message
    assert "0x" not in caught.value.message
