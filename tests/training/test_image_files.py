"""Images of training: what `galen data captions` makes of DICOM is read, DICOM itself is not."""

from pathlib import Path

import numpy as np
import pytest

from tests.datagen.captions.tables import figures, make
from tests.modeling.medical_images.dicom_files import ct
from training.processor import open_processing
from training.step_data import ImageError, ImageFiles

SLICE = ct(np.arange(-1000, 1000, 2).reshape(25, 40))


def test_the_picture_of_a_dicom_file_is_read(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(SLICE)
    (tmp_path / "t.csv").write_text("image,caption\na.dcm,A wedge.\n", "utf-8")
    assert make(tmp_path / "in", tmp_path / "t.csv", "--out-images", tmp_path / "flat") == 0

    files = ImageFiles(tmp_path / "flat", open_processing(tiny))
    pixels = files.read(str(figures(tmp_path)[0]["image"]))

    assert pixels.shape[0] == 3
    assert pixels.std() > 0.1


def test_a_dicom_file_is_refused_with_the_command_that_converts(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(SLICE)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = ImageFiles(tmp_path, open_processing(tiny))

    with pytest.raises(ImageError, match="`galen data captions`"):
        files.read("a.dcm")
    with pytest.raises(ImageError, match="cannot be read"):
        files.read("b.png")
