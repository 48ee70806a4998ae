import gzip

import numpy as np
import pytest

from modeling.medical_images.choice import Choice, Plane
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import read_medical
from tests.modeling.medical_images.nifti_files import nifti

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def volume() -> np.ndarray:
    """Right, front and top are brighter; in RAS."""
    right, front, top = np.meshgrid(range(30), range(40), range(50), indexing="ij")
    return (right + 100 * front + 10_000 * top).astype(np.int32)


@pytest.mark.parametrize(
    ("plane", "size"), [("axial", (30, 40)), ("coronal", (30, 50)), ("sagittal", (40, 50))]
)
def test_planes_are_shown_as_radiologists_look(plane: Plane, size: tuple[int, int]):
    image, facts = read_medical(nifti(volume(), affine=RAS), Choice(plane=plane))
    seen = np.asarray(image).astype(int)

    assert image.size == size
    assert seen[0].mean() > seen[-1].mean()  # the front, or the top, is above
    if plane == "axial":
        assert facts.slices == 50
        assert seen[:, 0].mean() >= seen[:, -1].mean()  # the patient's right is at the left


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_order_in_the_file_does_not_matter(plane: Plane):
    plain = nifti(volume(), affine=RAS)
    affine = np.array([[0, -1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], float)
    turned = np.flip(np.transpose(volume(), (2, 0, 1)), (0, 1))

    choice = Choice(plane=plane, slice=7)
    assert read_medical(nifti(np.ascontiguousarray(turned), affine=affine), choice)[
        0
    ].tobytes() == (read_medical(plain, choice)[0].tobytes())


@pytest.mark.parametrize(
    "file",
    [
        nifti(volume())[:5000],
        nifti(volume(), is_packed=True)[:1000],
        gzip.compress(b"no volume" * 100, mtime=0),
        nifti(np.zeros((4, 4), np.int16)),
        nifti(np.zeros((4, 4, 4), np.complex64)),
    ],
)
def test_damaged_and_unfit_files_are_refused(file: bytes):
    with pytest.raises(MedicalImageError) as caught:
        read_medical(file)

    assert caught.value.code == "invalid_image"


def test_a_gzip_bomb_is_refused():
    head = nifti(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(MedicalImageError) as caught:
        read_medical(gzip.compress(head + bytes(257 * 2**20), 1))

    assert caught.value.code == "image_too_large"


def test_a_slice_out_of_range_says_which_there_are():
    with pytest.raises(MedicalImageError, match="this file has 1 to 50") as caught:
        read_medical(nifti(volume()), Choice(slice=51))

    assert caught.value.field == "slice"
