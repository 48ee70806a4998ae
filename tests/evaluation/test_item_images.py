import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.item_images import open_image, read_image
from modeling.medical_images.choice import AS_IT_IS
from modeling.medical_images.reading import read_medical
from modeling.medical_images.recipes import fingerprint
from tests.modeling.medical_images.dicom_files import dicom
from tests.modeling.medical_images.shipped import shipped


def test_a_dicom_file_is_sent_as_the_pixels_that_the_gateway_makes_of_it(tmp_path: Path):
    file = shipped("CT_small.dcm")
    (tmp_path / "slice.dcm").write_bytes(file)

    sent = read_image(tmp_path, "slice.dcm").url
    png = Image.open(io.BytesIO(base64.b64decode(sent.removeprefix("data:image/png;base64,"))))

    grey = np.asarray(read_medical(file)[0])
    assert (np.asarray(png) == grey[..., None]).all()
    assert open_image(tmp_path, "slice.dcm").tobytes() == png.tobytes()


def test_text_about_a_patient_within_the_pixels_is_not_sent(tmp_path: Path):
    pixels = np.zeros((40, 40), np.uint8)
    (tmp_path / "a.dcm").write_bytes(dicom(pixels, BurnedInAnnotation="YES"))

    with pytest.raises(EvaluationError, match="text about a patient"):
        read_image(tmp_path, "a.dcm")


TWINS = ("scan.png", "Scan.png", "b\u00e9.png", "be\u0301.png")
"""Names that differ by their case, or by how Unicode composes them, are other files."""


def test_names_that_look_alike_are_files_of_their_own(tmp_path: Path):
    for shade, name in enumerate(TWINS[:3]):
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / name)

    assert [open_image(tmp_path, name).getpixel((0, 0)) for name in TWINS[:3]] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0),
    ]  # fmt: skip
    with pytest.raises(EvaluationError, match="cannot be read"):
        open_image(tmp_path, TWINS[3])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../up.png", "lies outside"),
        ("/etc/hostname", "lies outside"),
        ("link.png", "lies outside"),
        ("device.png", "lies outside"),
        ("pipe.png", "is no file"),
        ("folder", "is no file"),
        ("empty.png", "has 0 bytes"),
        ("a\0b.png", "no file can have this name"),
    ],
)
def test_what_is_no_file_of_the_folder_is_refused_and_not_waited_for(
    tmp_path: Path, name: str, reason: str
):
    folder = tmp_path / "images"
    (folder / "folder").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "up.png")
    (folder / "link.png").symlink_to(tmp_path / "up.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")

    with pytest.raises(EvaluationError, match=reason):
        read_image(folder, name)


def test_what_converted_an_image_is_told_and_only_of_what_was_converted(tmp_path: Path):
    (tmp_path / "a.dcm").write_bytes(shipped("CT_small.dcm"))
    Image.new("L", (40, 40)).save(tmp_path / "b.png")

    assert read_image(tmp_path, "a.dcm").converted_by == fingerprint(AS_IT_IS, "sent as PNG")
    assert read_image(tmp_path, "b.png").converted_by == ""
