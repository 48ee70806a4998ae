"""Images of votes: the pixels the model was shown, and a reason where there are none."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from pydicom.data import get_testdata_file

from modeling.medical_images.choice import Choice
from modeling.medical_images.reading import read_medical
from services.launcher import feedback_images
from services.launcher.feedback_images import clean_image
from tests.modeling.medical_images.dicom_files import dicom
from tests.modeling.medical_images.nifti_files import nifti

NOT_SO = "an image has no such frame, slice, window or recipe"
STEPS = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def file_of(image: Image.Image, encoding: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()


def clean(content: bytes, preprocess: dict[str, Any] | None = None) -> Image.Image:
    image = clean_image(content, preprocess or {})
    assert isinstance(image, Image.Image), image
    return image


@pytest.mark.parametrize("encoding", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_cut(encoding: str) -> None:
    pixels = np.asarray(clean(file_of(Image.fromarray(STEPS), encoding)))

    assert np.array_equal(pixels[..., 0], np.round(STEPS / 257).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_what_is_transparent_is_white() -> None:
    image = clean(file_of(Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "PNG"))

    assert image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_formats_that_are_taken(encoding: str) -> None:
    image = clean(file_of(Image.new("RGB", (6, 4), (9, 9, 9)), encoding))

    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize("encoding", ["PPM", "TGA", "ICO", "PCX"])
def test_formats_that_are_not(encoding: str) -> None:
    assert clean_image(file_of(Image.new("RGB", (32, 32)), encoding), {}) == (
        "an image cannot be decoded"
    )


def test_what_a_png_says_beside_its_pixels_is_gone() -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Patient", "Canary-4717")
    image = clean(file_of(Image.new("RGB", (4, 4)), "PNG", pnginfo=said))

    assert b"Canary" not in file_of(image, "PNG")


def test_dicom_and_nifti_are_read() -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    scan = clean(dicom(values, PatientName="Canary"))
    volume = clean(nifti(np.arange(60, dtype=np.int16).reshape(3, 4, 5)))

    assert (scan.mode, scan.size, volume.mode) == ("RGB", (8, 6), "RGB")
    assert (scan.getpixel((0, 0)), scan.getpixel((7, 5))) == ((0,) * 3, (255,) * 3)


def test_a_refused_medical_file_has_its_reason() -> None:
    values = np.zeros((4, 4), np.uint8)
    burnt = dicom(values, BurnedInAnnotation="YES")

    assert clean_image(burnt, {}) == "an image has burnt-in text (phi_burned_in)"
    assert clean_image(dicom(values)[:200], {}) == "an image cannot be decoded"


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_images, "_MOST_PIXELS", 15)
    grey = np.zeros((4, 4), np.uint8)

    for content in (file_of(Image.fromarray(grey), "PNG"), dicom(grey)):
        assert clean_image(content, {}) == "an image has too many pixels"


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damage_is_a_reason_wherever_it_is(encoding: str) -> None:
    whole = file_of(Image.effect_noise((24, 24), 40), encoding)

    for length in range(0, len(whole) // 2, 7):
        assert clean_image(whole[:length], {}) == "an image cannot be decoded"


@pytest.mark.parametrize("error", [SyntaxError, IndexError, MemoryError, EOFError, RuntimeError])
def test_whatever_a_decoder_raises_is_a_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> None:
        raise error

    content = file_of(Image.new("RGB", (4, 4)), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", breaks)

    assert clean_image(content, {}) == "an image cannot be decoded"


def shipped(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


def pixels_of(content: bytes, **preprocess: Any) -> bytes:
    return clean(content, preprocess).tobytes()


def test_the_frame_that_was_judged_is_the_one_that_goes_out() -> None:
    ultrasound = shipped("examples_ybr_color.dcm")  # thirty frames
    frames = [pixels_of(ultrasound, frame=number) for number in (1, 2, 30)]

    assert len(set(frames)) == 3
    assert frames[0] == pixels_of(ultrasound)
    seen, _ = read_medical(ultrasound, Choice(frame=30))
    assert frames[2] == seen.tobytes()


def test_windows_recipes_planes_and_slices_are_those_that_were_judged() -> None:
    scan = shipped("CT_small.dcm")
    ways: list[dict[str, Any]] = [
        {}, {"window": "lung"}, {"window": {"center": 40, "width": 80}},
        {"recipe": "ct-three-windows"},
    ]  # fmt: skip
    assert len({pixels_of(scan, **way) for way in ways}) == len(ways)

    volume = nifti(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    assert clean(volume, {"plane": "sagittal", "slice": 1}).size != clean(volume).size


@pytest.mark.parametrize(
    "preprocess", [{"frame": 31}, {"slice": 2}, {"window": "lung"}, {"recipe": "ct-three-windows"}]
)
def test_what_a_file_has_not_was_not_judged(preprocess: dict[str, Any]) -> None:
    assert clean_image(shipped("examples_ybr_color.dcm"), preprocess) == NOT_SO


def test_a_photograph_has_no_frames_but_passes_over_the_operators_recipe() -> None:
    photograph = file_of(Image.new("RGB", (6, 4), (9, 9, 9)), "PNG")

    assert clean_image(photograph, {"frame": 1}) == NOT_SO
    assert clean(photograph, {"recipe": "ct-three-windows"}).size == (6, 4)


def test_a_webp_with_a_huge_canvas_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = file_of(Image.new("RGBA", (32, 32), (1, 2, 3, 4)), "WEBP", lossless=True)
    side = (5_999).to_bytes(3, "little")  # 36 million pixels: within the limit of other formats
    canvas = b"VP8X" + (10).to_bytes(4, "little") + b"\x12\0\0\0" + side + side
    body = b"WEBP" + canvas + small[12:]
    huge = b"RIFF" + len(body).to_bytes(4, "little") + body

    opened: list[object] = []
    monkeypatch.setattr(Image, "open", lambda *each, **_: opened.append(each))

    assert clean_image(huge, {}) == "an image has too many pixels"
    assert opened == []
    assert clean_image(huge[:24], {}) == "an image cannot be decoded"
