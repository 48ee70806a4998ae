"""Sizes from the first bytes of files that Pillow and pydicom wrote, and of damaged ones."""

import base64
import io
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from modeling.medical_images.dicom_elements import read_size
from modeling.medical_images.errors import MedicalImageError
from services.gateway.media.data_url import MIME_BY_FORMAT
from services.gateway.media.header_size import Size, check_size, header_size
from services.gateway.media.image_format import sniff_format
from services.protocol.errors import ErrorCode, RequestError
from tests.gateway.media.image_files import b64, noise, png, saved
from tests.modeling.medical_images.dicom_files import raw_file

SIZE = Size(123, 45)
FORMATS = [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("GIF", {}), ("BMP", {}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]  # fmt: skip


def is_rgb(name: str) -> bool:
    return name != "GIF"


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_size_is_that_of_the_image(name: str, options: dict[str, object]) -> None:
    image = noise(*SIZE) if is_rgb(name) else noise(*SIZE).convert("P")
    file = saved(image, name, **options)
    assert header_size(b64(file)) == SIZE
    url = f"data:image/x;base64,{b64(file)}"
    assert header_size(url, url.index(",") + 1) == SIZE


def test_webp_with_an_extended_header() -> None:
    image = noise(*SIZE).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    assert header_size(b64(saved(image, "WEBP"))) == SIZE


def test_jpeg_behind_long_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    file = saved(noise(*SIZE), "JPEG", exif=exif, icc_profile=b"p" * 100_000)
    text = b64(file)
    tracemalloc.start()
    try:
        assert header_size(text) == SIZE
        assert tracemalloc.get_traced_memory()[1] < 16_000
    finally:
        tracemalloc.stop()


def test_jpeg_that_says_its_size_too_late_is_the_childs_to_decide() -> None:
    file = saved(noise(*SIZE), "JPEG", icc_profile=b"p" * 400_000)
    assert header_size(b64(file)) is None


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("CT_small.dcm", (128, 128)),  # explicit little endian
        ("MR_small.dcm", (64, 64)),
        ("MR_small_implicit.dcm", (64, 64)),
        ("JPEG2000.dcm", (256, 1024)),
        ("examples_palette.dcm", (800, 350)),
    ],
)
def test_dicom(name: str, size: tuple[int, int]) -> None:
    path = get_testdata_file(name, download=False)
    with open(str(path), "rb") as file:  # noqa: PTH123 - pydicom says a str
        assert header_size(b64(file.read())) == size


@pytest.mark.parametrize("name", ["MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_dicom_written_otherwise_is_the_childs_to_read(name: str) -> None:
    path = get_testdata_file(name, download=False)
    with open(str(path), "rb") as file:  # noqa: PTH123 - pydicom says a str
        assert header_size(b64(file.read())) is None


@given(
    st.sampled_from(FORMATS),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "P", "RGB"]),
)
@settings(max_examples=100, deadline=None)
def test_header_and_decoder_agree_about_any_size(
    kind: tuple[str, dict[str, object]], width: int, height: int, mode: str
) -> None:
    name, options = kind
    is_taken = mode in ("L", "RGB") or name in ("PNG", "GIF", "BMP", "TIFF")
    file = saved(Image.new(mode if is_taken else "RGB", (width, height), 1), name, **options)
    with Image.open(io.BytesIO(file)) as opened:
        assert header_size(b64(file)) == opened.size == (width, height)


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_any_bytes_have_a_format_or_a_reason(file: bytes) -> None:
    try:
        assert sniff_format(file) in MIME_BY_FORMAT
    except RequestError as error:
        assert error.code in (ErrorCode.INVALID_IMAGE, ErrorCode.UNSUPPORTED_IMAGE_TYPE)  # noqa: PT017 - either end is right


@given(st.sampled_from(FORMATS), st.integers(0, 400), st.binary(max_size=12))
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_raise(
    kind: tuple[str, dict[str, object]], cut: int, noise_bytes: bytes
) -> None:
    name, options = kind
    image = noise(*SIZE) if is_rgb(name) else noise(*SIZE).convert("P")
    file = bytearray(saved(image, name, **options))
    file[cut : cut + len(noise_bytes)] = noise_bytes
    size = header_size(b64(bytes(file[: cut + 40])))
    assert size is None or min(size) > 0


@given(st.text(max_size=300))
def test_text_that_is_no_base64_has_no_size(text: str) -> None:
    assert header_size(text) is None


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_dicom_of_anything_never_raises(rest: bytes) -> None:
    header_size(base64.b64encode(bytes(128) + b"DICM" + rest).decode())


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    group = tag.to_bytes(4, "little")
    return group[2:] + group[:2] + vr + len(value).to_bytes(2, "little") + value


ROWS, COLUMNS = element(0x00280010, b"US", b"\x2d\0"), element(0x00280011, b"US", b"\x7b\0")
ITEM, ITEM_END = b"\xfe\xff\x00\xe0" + b"\xff" * 4, b"\xfe\xff\x0d\xe0" + bytes(4)
END = b"\xfe\xff\xdd\xe0" + bytes(4)
INNER = b"\x28\0\x10\0" + (2).to_bytes(4, "little") + b"\x09\0"  # rows, without a type


def test_dicom_behind_a_private_sequence_of_unknown_type() -> None:
    unknown = b"\x09\0\x10\x10UN\0\0" + b"\xff" * 4 + ITEM + INNER + ITEM_END + END
    assert header_size(b64(raw_file(unknown + ROWS + COLUMNS))) == SIZE


@pytest.mark.parametrize(("number", "size"), [(400, SIZE), (600, None)])
def test_dicom_of_many_elements_before_its_size(number: int, size: Size | None) -> None:
    many = element(0x00091010, b"LO", b"ab") * number
    assert header_size(b64(raw_file(many + ROWS + COLUMNS))) == size


@given(st.lists(st.sampled_from([ROWS, COLUMNS, ITEM, ITEM_END, END, INNER, b"\0"]), max_size=12))
@settings(max_examples=200, deadline=None)
def test_dicom_has_the_size_that_its_bytes_say(parts: list[bytes]) -> None:
    file = raw_file(b"".join(parts))
    try:
        found = read_size(file)
    except MedicalImageError:
        found = None
    assert header_size(b64(file)) == found


def test_a_jpeg_of_endless_segments_is_given_up() -> None:
    file = b"\xff\xd8" + b"\xff\xe0" + struct.pack(">H", 2) + b"\xff\xe1\x00\x02" * 60_000
    assert header_size(b64(file)) is None


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((7000, 7000), ErrorCode.IMAGE_TOO_LARGE),
        ((27, 100), ErrorCode.IMAGE_TOO_SMALL),
        ((28, 5601), ErrorCode.IMAGE_TOO_SMALL),
    ],
)
def test_sizes_that_are_not_taken(size: tuple[int, int], code: ErrorCode) -> None:
    found = header_size(b64(png(*size, pixels=b"")))
    assert found is not None
    assert found == size
    with pytest.raises(RequestError) as caught:
        check_size(found, 40_000_000, param="p")
    assert (caught.value.code, caught.value.param) == (code, "p")
