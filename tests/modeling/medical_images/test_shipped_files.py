import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames

from modeling.medical_images.dicom import decode_frame
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import read_medical
from tests.modeling.medical_images.shipped import ROOT, shipped, shipped_files

# mean of all samples after the default recipe, of our own first run
_GOLDEN = {
    "CT_small.dcm": ("L", (128, 128), 114.871),
    "MR_small.dcm": ("L", (64, 64), 113.066),
    "693_J2KI.dcm": ("L", (512, 512), 44.328),
    "J2K_pixelrep_mismatch.dcm": ("L", (512, 512), 63.207),
    "JPEGLSNearLossless_16.dcm": ("L", (10, 50), 46.7),
    "image_dfl.dcm": ("L", (512, 512), 127.116),
    "liver_1frame.dcm": ("L", (512, 512), 35.246),
    "rtdose.dcm": ("L", (10, 10), 121.55),
    "examples_overlay.dcm": ("L", (484, 300), 48.113),
    "examples_palette.dcm": ("RGB", (800, 350), 20.493),
    "examples_rgb_color.dcm": ("RGB", (320, 240), 34.267),
    "examples_ybr_color.dcm": ("RGB", (320, 240), 9.471),
    "examples_jpeg2k.dcm": ("RGB", (640, 480), 34.529),
    "dicomdirtests/77654033/CR1/6154": ("L", (16, 16), 97.734),
}


def test_every_shipped_file_gives_pixels_or_a_reason():
    taken, refused = 0, dict[str, str]()
    for path in shipped_files():
        try:
            image, facts = read_medical(path.read_bytes())
        except MedicalImageError as error:
            refused[path.name] = error.code
        else:
            assert image.mode in ("L", "RGB")
            assert (image.width, image.height) == (facts.width, facts.height)
            taken += 1
    assert taken == 101
    assert len(refused) > 80
    assert set(refused.values()) <= {
        "invalid_dicom", "invalid_image", "unsupported_transfer_syntax",
    }  # fmt: skip


@pytest.mark.parametrize("name", _GOLDEN)
def test_pixels_of_the_main_kinds_are_as_they_were(name: str):
    image, _ = read_medical(shipped(name))

    mode, size, mean = _GOLDEN[name]
    assert (image.mode, image.size) == (mode, size)
    assert float(np.asarray(image).mean()) == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm",
    ],
)  # fmt: skip
def test_every_lossless_syntax_of_one_slice_gives_the_same_pixels(name: str):
    assert read_medical(shipped(name))[0].tobytes() == (
        read_medical(shipped("MR_small.dcm"))[0].tobytes()
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MR_truncated.dcm", "invalid_dicom"),
        ("no_meta.dcm", "invalid_image"),
        ("dicomdirtests/DICOMDIR", "invalid_dicom"),
        ("rtplan.dcm", "invalid_dicom"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "invalid_dicom"),
    ],
)
def test_reasons_are_the_right_ones(name: str, code: str):
    with pytest.raises(MedicalImageError) as caught:
        read_medical(shipped(name))

    assert caught.value.code == code


def test_lossy_jpeg_of_12_bits_has_the_values_that_pydicom_expects_of_it():
    header = read_header(shipped("JPEG-lossy.dcm"))
    stored = decode_frame(header, 1)

    # two points that pydicom's own tests name (tests/pixels/pixels_reference.py, JPGE_BAD)
    assert (stored[420, 140], stored[230, 120]) == (244, 95)
    assert (stored.shape, stored.dtype) == ((1024, 256), np.dtype("<u2"))
    image, facts = read_medical(shipped("JPEG-lossy.dcm"))
    assert (image.size, facts.transfer_syntax) == ((256, 1024), "JPEG Extended")


@pytest.mark.parametrize("cut", [60, 700, 3400])
def test_a_torn_jpeg_of_12_bits_is_damaged(cut: int):
    header = read_header(shipped("JPEG-lossy.dcm"))
    (frame,) = generate_frames(header.elements.pixels or b"", number_of_frames=1)
    torn = encapsulate([frame[:cut]], has_bot=False)
    elements = dataclasses.replace(header.elements, pixels=torn)

    with pytest.raises(MedicalImageError) as caught:
        decode_frame(dataclasses.replace(header, elements=elements), 1)

    assert caught.value.code == "invalid_dicom"


@pytest.mark.parametrize("change", [{"samples": 3}, {"bits_allocated": 32}])
def test_other_kinds_of_jpeg_of_12_bits_are_refused(change: dict[str, int]):
    header = read_header(shipped("JPEG-lossy.dcm"))
    with pytest.raises(MedicalImageError) as caught:
        decode_frame(dataclasses.replace(header, **change), 1)

    assert caught.value.code == "unsupported_transfer_syntax"


def test_the_files_are_there():
    assert isinstance(ROOT, Path)
    assert sum(1 for _ in shipped_files()) > 180
