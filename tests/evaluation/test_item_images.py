import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.item_images import open_image, read_image
from evaluation.receipt import versions
from modeling.medical_images.reading import read_medical
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


def test_receipts_name_the_way_of_medical_images():
    assert versions()["medical-images"].startswith("default@1/")
