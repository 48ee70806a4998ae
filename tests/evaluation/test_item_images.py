import base64
import io
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


def test_what_converted_an_image_is_told_and_only_of_what_was_converted(tmp_path: Path):
    (tmp_path / "a.dcm").write_bytes(shipped("CT_small.dcm"))
    Image.new("L", (40, 40)).save(tmp_path / "b.png")

    assert read_image(tmp_path, "a.dcm").converted_by == fingerprint(AS_IT_IS, "sent as PNG")
    assert read_image(tmp_path, "b.png").converted_by == ""
