"""Images of votes: the pixels the model was shown, and a reason where there are none."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from services.launcher import feedback_images
from services.launcher.feedback_images import clean_image
from tests.modeling.medical_images.dicom_files import dicom
from tests.modeling.medical_images.nifti_files import nifti

STEPS = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def file_of(image: Image.Image, encoding: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()


def clean(content: bytes) -> Image.Image:
    image = clean_image(content)
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
    assert clean_image(file_of(Image.new("RGB", (32, 32)), encoding)) == (
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

    assert clean_image(burnt) == "an image has burnt-in text (phi_burned_in)"
    assert clean_image(dicom(values)[:200]) == "an image cannot be decoded"


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_images, "_MOST_PIXELS", 15)
    grey = np.zeros((4, 4), np.uint8)

    for content in (file_of(Image.fromarray(grey), "PNG"), dicom(grey)):
        assert clean_image(content) == "an image has too many pixels"


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damage_is_a_reason_wherever_it_is(encoding: str) -> None:
    whole = file_of(Image.effect_noise((24, 24), 40), encoding)

    for length in range(0, len(whole) // 2, 7):
        assert clean_image(whole[:length]) == "an image cannot be decoded"


@pytest.mark.parametrize("error", [SyntaxError, IndexError, MemoryError, EOFError, RuntimeError])
def test_whatever_a_decoder_raises_is_a_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> None:
        raise error

    content = file_of(Image.new("RGB", (4, 4)), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", breaks)

    assert clean_image(content) == "an image cannot be decoded"
