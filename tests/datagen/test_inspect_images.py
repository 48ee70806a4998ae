"""A folder of images is counted: DICOM by what its headers say of pixels, and by nothing else."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from datagen.inspect_command import app
from datagen.inspecting_images import inspect_folder
from tests.modeling.medical_images.canary import canary_file
from tests.modeling.medical_images.nifti_files import nifti
from tests.modeling.medical_images.shipped import ROOT, shipped


def study(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    for name in ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "rtplan.dcm"):
        (folder / "deep" / name).write_bytes(shipped(name))
    (folder / "Canary-Dicom-Doe.dcm").write_bytes(canary_file(BurnedInAnnotation="YES"))
    (folder / "notes.txt").write_text("Canary-Dicom", "utf-8")
    Image.new("L", (9, 9)).save(folder / "a.png")
    (folder / "link.png").symlink_to("a.png")
    return folder


def test_members_are_counted_by_what_they_are(tmp_path: Path) -> None:
    found = inspect_folder(study(tmp_path / "in"))

    assert found.formats == {"DICOM": 5, "PNG": 1, "other files": 1}
    assert found.modalities == {"CT": 1, "MR": 2, "none": 1}
    assert found.syntaxes == {"Little Endian": 3, "RLE": 1}
    assert (found.num_frames, found.num_burned_in) == (4, 1)
    assert found.problems == {
        "invalid_dicom: the file holds no image: it has no pixel data": 1,
    }


def test_the_command_says_it_in_words_and_in_json_and_nothing_of_a_patient(tmp_path: Path) -> None:
    folder, runner = study(tmp_path / "in"), CliRunner()
    words = runner.invoke(app, [str(folder)])
    document = runner.invoke(app, [str(folder), "--json"])

    assert (words.exit_code, document.exit_code) == (3, 3)
    assert "DICOM 5, PNG 1, other files 1" in words.output
    assert "DICOM: MR 2, none 1, CT 1; 4 frames" in words.output
    assert "1 state that text is part of their pixels" in words.output
    assert json.loads(document.stdout)["dicom"]["burned_in"] == 1
    assert "Canary" not in words.output + document.output


def test_every_file_that_pydicom_ships_is_counted() -> None:
    found = inspect_folder(ROOT / "test_files")

    assert found.formats["DICOM"] == found.modalities.total() + sum(
        num for kind, num in found.problems.items() if "unsupported" not in kind
    )
    assert found.modalities.total() > 80


def test_volumes_and_an_empty_folder(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [str(tmp_path)]).exit_code == 0
    (tmp_path / "a.nii.gz").write_bytes(nifti(np.zeros((4, 5, 6)), is_packed=True))
    assert inspect_folder(tmp_path).formats == {"NIfTI": 1}
