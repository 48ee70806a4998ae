"""TIFF, BMP and GIF in the decoder: bombs, many frames, metadata, memory and time."""

import zlib
from collections.abc import Callable

import psutil
import pytest
from PIL import Image, TiffImagePlugin

from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, RequestError
from tests.gateway.media.decoding import decode, peak_rss_kib, pixels, refusal
from tests.gateway.media.hand_made import bmp, gif, tiff
from tests.gateway.media.image_files import noise, saved

CANARY = b"CANARY-Mustermann-1234"
TAIL = b"PK\x03\x04<script>" + CANARY
BLACK_PX = bytes(64 * 64)
DEFLATE, LZW = (259, 3, 1, 8), (259, 3, 1, 5)
ONE_BIT = (258, 3, 1, 1)
MIB = 1024


def cpu_s(decoder: ImageDecoder) -> float:
    times = psutil.Process(decoder.child_pids[0]).cpu_times()
    return times.user + times.system


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        pytest.param(
            tiff(50_000, 50_000, zlib.compress(bytes(99_999)), changes=(ONE_BIT, DEFLATE)),
            "tiff", id="74 tiff",
        ),
        pytest.param(bmp(50_000, 50_000, b"\xff\0" * 1000, 8, 1), "bmp", id="74 bmp"),
        pytest.param(gif(50_000, 50_000), "gif", id="74 gif"),
        pytest.param(tiff(65_535, 65_535), "tiff", id="75 tiff"),
        pytest.param(tiff(2**32 - 1, 2**32 - 1), "tiff", id="75 largest tiff"),
        pytest.param(bmp(65_535, 65_535), "bmp", id="75 bmp"),
        pytest.param(bmp(64, -(2**31)), "bmp", id="75 bmp upside down"),
        pytest.param(gif(65_535, 65_535), "gif", id="75 gif"),
        pytest.param(tiff(8_020, 5_000), "tiff", id="76 tiff"),
        pytest.param(bmp(8_020, 5_000), "bmp", id="76 bmp"),
        pytest.param(gif(8_020, 5_000), "gif", id="76 gif"),
    ],
)  # fmt: skip
async def test_74_75_76_too_many_pixels_are_refused_before_they_are_decoded(
    decoder: ImageDecoder, file: bytes, kind: str
):
    pid, peak_before, cpu_before = decoder.child_pids[0], _peak(decoder), cpu_s(decoder)

    assert await refusal(decoder, file, kind) == ErrorCode.IMAGE_TOO_LARGE

    assert decoder.child_pids == [pid]
    assert _peak(decoder) - peak_before < 20 * MIB
    assert cpu_s(decoder) - cpu_before < 1


def _peak(decoder: ImageDecoder) -> int:
    return peak_rss_kib(decoder.child_pids[0])


TILES = ((322, 4, 1, 65_536), (323, 4, 1, 65_536), (324, 4, 1, 8), (325, 4, 1, 4096))
NO_NUMBERS = b"\x89" * 4096
STRANGE = {
    "80 a tile of 4 gigapixels": tiff(64, 64, NO_NUMBERS, changes=(LZW, *TILES)),
    "80 packed tile of 4 gigapixels": tiff(
        64, 64, zlib.compress(BLACK_PX), changes=(DEFLATE, *TILES)
    ),
    "2**31 strips": tiff(64, 64, BLACK_PX, changes=((273, 4, 2**31, 8),)),
    "65,535 samples": tiff(64, 64, BLACK_PX, changes=((277, 3, 1, 65_535),)),
    "pixels that are not there": tiff(64, 64),
    "packed pixels that are none": tiff(64, 64, NO_NUMBERS, changes=(DEFLATE,)),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_77_80_a_tiff_that_claims_what_it_has_not_is_invalid_soon(
    decoder: ImageDecoder, name: str
):
    peak_before, cpu_before = _peak(decoder), cpu_s(decoder)

    assert await refusal(decoder, STRANGE[name], "tiff") == ErrorCode.INVALID_IMAGE

    assert _peak(decoder) - peak_before < 20 * MIB
    assert cpu_s(decoder) - cpu_before < 1


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        pytest.param(tiff(64, 64, BLACK_PX, pages=10_000), "tiff", id="78 tiff"),
        pytest.param(gif(64, 64, frames=10_000), "gif", id="78 gif"),
        pytest.param(
            tiff(64, 64, BLACK_PX, changes=((34675, 7, 2**32 - 1, 8), (700, 1, 2**32 - 1, 8))),
            "tiff", id="77 profile and XMP of 4 GiB",
        ),
        pytest.param(
            tiff(64, 64, zlib.compress(bytes(64 << 20), 9), changes=(DEFLATE,)),
            "tiff", id="77 strip of 64 MiB for 4 KiB",
        ),
    ],
)  # fmt: skip
async def test_77_78_only_what_the_first_frame_needs_is_read(
    decoder: ImageDecoder, file: bytes, kind: str
):
    peak_before, cpu_before = _peak(decoder), cpu_s(decoder)

    decoded = await decode(decoder, file, kind)

    assert (decoded.width, decoded.height, decoded.data) == (64, 64, bytes(3 * 64 * 64))
    assert _peak(decoder) - peak_before < 20 * MIB
    assert cpu_s(decoder) - cpu_before < 1


async def test_77_a_gif_of_endless_comments_ends_with_its_cpu_time():
    async with ImageDecoder(num_children=1, cpu_limit_s=0.5) as decoder:
        with pytest.raises(RequestError) as caught:
            await decode(decoder, gif(64, 64, comment=b"c" * 15_000_000), "gif")

        assert caught.value.code == ErrorCode.INVALID_IMAGE
        assert (await decode(decoder, gif(64, 64), "gif")).width == 64


SIZE = (7_000, 5_700)
HUNGRY: dict[str, tuple[Callable[[], bytes], str]] = {
    "rotated RGBA in one strip": (
        lambda: saved(
            Image.new("RGBA", SIZE, (1, 2, 3, 100)), "TIFF", compression="tiff_adobe_deflate",
            tiffinfo={278: SIZE[1], 274: 6},
        ),
        "tiff",
    ),
    "palette with transparency": (
        lambda: saved(Image.new("P", SIZE, 1), "GIF", transparency=1), "gif",
    ),
    "run lengths": (
        lambda: bmp(
            *SIZE, (b"\xff\0" * (SIZE[0] // 255) + bytes([SIZE[0] % 255, 0, 0, 0])) * SIZE[1], 8, 1
        ),
        "bmp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUNGRY)
async def test_74_the_hungriest_of_40_megapixels_stay_below_512_mebibytes(name: str):
    make, kind = HUNGRY[name]
    async with ImageDecoder(num_children=1, cpu_limit_s=30, wall_limit_s=60) as decoder:
        decoded = await decode(decoder, make(), kind)

        assert decoded.source_pixels == SIZE[0] * SIZE[1]
        assert _peak(decoder) < 512 * MIB


def with_canaries(image: Image.Image, kind: str) -> bytes:
    """The image with the canary wherever its format has a place, and behind its end."""
    if kind == "bmp":
        return saved(image, "BMP") + TAIL
    if kind == "gif":
        file = saved(image, "GIF", comment=CANARY)
        xmp = b"\x21\xff\x0bXMP DataXMP" + bytes([len(CANARY)]) + CANARY + b"\0"
        return file[:-1] + xmp + b"\x3b" + TAIL
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (270, 305, 315, 33432):  # description, software, artist, copyright
        tags[tag] = CANARY.decode()
    tags[0x8769] = {0x9286: CANARY}  # UserComment
    tags[0x8825] = {29: CANARY.decode()}  # GPSDateStamp
    tags.tagtype[33723] = tags.tagtype[700] = 7
    tags[33723] = tags[700] = b"<x>" + CANARY  # IPTC, XMP
    return saved(image, "TIFF", tiffinfo=tags, icc_profile=bytes(128) + CANARY) + TAIL


@pytest.mark.parametrize(("kind", "places"), [("tiff", 10), ("gif", 3), ("bmp", 1)])
@pytest.mark.parametrize("size", ["small", "drawing", "photograph"])
async def test_85_86_no_metadata_and_no_tail_come_through(
    decoder: ImageDecoder, kind: str, places: int, size: str
):
    image = {
        "small": noise(64, 64),
        "drawing": Image.new("RGB", (900, 900), "navy"),
        "photograph": noise(900, 900),
    }[size]
    file = with_canaries(image, kind)
    assert file.count(CANARY) >= places

    decoded = await decode(decoder, file, kind)

    assert CANARY not in decoded.data
    assert b"<script>" not in decoded.data
    assert not pixels(decoded).getexif()
