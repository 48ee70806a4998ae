"""A circle on the patient is a circle in the picture, whatever the pixels' sides."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, read_medical
from tests.modeling.medical_images.dicom_files import dicom


def disc(rows: int, columns: int, aspect: float) -> np.ndarray:
    """Return a disc, as it is stored in pixels `aspect` times as high as wide."""
    down, across = np.mgrid[:rows, :columns] + 0.5
    radius = 0.2 * min(rows * aspect, columns)
    off = np.hypot((down - rows / 2) * aspect, across - columns / 2)
    return np.where(off < radius, 200, 10).astype(np.uint8)


def extent(file: bytes, policy: Policy | None = None) -> tuple[int, int]:
    """Return width and height of what is bright."""
    grey = np.asarray(read_medical(file, policy=policy)[0]) > 128
    return int(grey.any(axis=0).sum()), int(grey.any(axis=1).sum())


@pytest.mark.parametrize(
    "keyword",
    ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"],
)
@pytest.mark.parametrize(
    ("rows", "columns", "sides"), [(60, 180, ["3", "1"]), (180, 60, ["1", "3"])]
)
def test_a_circle_stays_a_circle(keyword: str, rows: int, columns: int, sides: list[str]) -> None:
    tags: dict[str, Any] = {keyword: sides}
    aspect = int(sides[0]) / int(sides[1])
    stored = disc(rows, columns, aspect)
    width, height = extent(dicom(stored, **tags))

    assert extent(dicom(stored))[0] != pytest.approx(extent(dicom(stored))[1], abs=20)
    assert width == pytest.approx(height, abs=3)
    image, facts = read_medical(dicom(stored, **tags))
    assert image.size == (facts.width, facts.height) == (180, 180)


def test_a_spacing_counts_more_than_a_ratio_and_that_of_a_frame_most() -> None:
    def measured(spacing: list[float]) -> Dataset:
        measure, group = Dataset(), Dataset()
        measure.PixelSpacing = spacing
        group.PixelMeasuresSequence = Sequence([measure])
        return group

    still = dicom(disc(60, 60, 1), PixelSpacing=[2, 2], PixelAspectRatio=["3", "1"])
    assert read_medical(still)[0].size == (60, 60)
    frames = dicom(
        np.stack([disc(60, 90, 1)] * 2),
        PixelSpacing=[1, 1],
        SharedFunctionalGroupsSequence=Sequence([measured([2, 1])]),
    )
    assert read_medical(frames)[0].size == (90, 120)


def test_where_there_would_be_too_many_pixels_the_finer_side_gets_fewer() -> None:
    file = dicom(disc(60, 180, 3), PixelSpacing=[3, 1])
    policy = Policy(max_pixels=60 * 180)
    assert read_medical(file, policy=policy)[0].size == (60, 60)
    width, height = extent(file, policy)
    assert width == pytest.approx(height, abs=2)


@pytest.mark.parametrize("spacing", [[1, 1.005], [0, 1], [1, 0], [-1, 1], [1], None])
def test_spacings_that_say_nothing_change_nothing(spacing: list[float] | None) -> None:
    tags: dict[str, Any] = {} if spacing is None else {"PixelSpacing": spacing}
    stored = disc(40, 50, 1)
    image = read_medical(dicom(stored, **tags))[0]
    assert image.tobytes() == read_medical(dicom(stored))[0].tobytes()


def test_absurd_sides_are_refused() -> None:
    with pytest.raises(MedicalImageError, match="more than 10 times"):
        read_medical(dicom(disc(40, 40, 1), PixelSpacing=[40, 1]))
