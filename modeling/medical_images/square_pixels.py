"""Pixels that are not square on the patient become square: a round thing is round for the model.

What does *not* live here: the model's own resizing (`modeling.image_recipe`).
"""

import math
from typing import Any

from PIL import Image
from pydicom.dataset import Dataset

from modeling.medical_images.dicom_header import (
    FRAME_GROUPS,
    SHARED_GROUPS,
    DicomHeader,
    items_of,
)
from modeling.medical_images.errors import MedicalImageError

SQUARE_WITHIN = 0.01
"""Spacings are rounded when they are written; so small a difference is none."""
MOST_ASPECT = 10.0
"""A coronal cut through thick slices has about 10; what states more is damaged."""

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def pixel_aspect(header: DicomHeader, frame: int) -> float:
    """Return a pixel's height by its width; 1 where the file does not say.

    A spacing counts more than PixelAspectRatio, which is for files without one (PS3.3,
    C.7.6.3.1.7); each states the vertical first. In files of many frames it stands in their groups
    (C.7.6.16.2.1).

    Raises:
        MedicalImageError: the sides differ by more than MOST_ASPECT.
    """
    groups = items_of(header.data, SHARED_GROUPS)[:1]
    groups += items_of(header.data, FRAME_GROUPS)[frame - 1 : frame]
    measures = [each for group in groups for each in group.get("PixelMeasuresSequence") or []]
    for source in (*reversed(measures), header.data):
        for keyword in _SPACINGS:
            aspect = _ratio(source, keyword)
            if aspect is None:
                continue
            if not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
                raise MedicalImageError(
                    "invalid_dicom",
                    f"the sides of a pixel differ by more than {MOST_ASPECT:g} times",
                )
            return 1.0 if abs(aspect - 1) <= SQUARE_WITHIN else aspect
    return 1.0


def made_square(image: Image.Image, aspect: float, max_pixels: int) -> Image.Image:
    """Return an image whose pixels are square (bicubic).

    The coarser side gets more pixels; where that would be too many, the finer one gets fewer.
    """
    if aspect == 1:
        return image
    width, height = image.size
    wide, high = (width, height * aspect) if aspect > 1 else (width / aspect, height)
    if round(wide) * round(high) > max_pixels:
        wide, high = (width / aspect, height) if aspect > 1 else (width, height * aspect)
    return image.resize((max(round(wide), 1), max(round(high), 1)), Image.Resampling.BICUBIC)


def _ratio(source: Dataset, keyword: str) -> float | None:
    try:
        value: Any = source.get(keyword)
        vertical, horizontal = (float(part) for part in value)
        aspect = vertical / horizontal
    except (TypeError, ValueError, ArithmeticError, LookupError):
        return None
    return aspect if math.isfinite(aspect) and aspect > 0 and horizontal > 0 else None
