"""Text within the pixels: what a file says of it, a rule that suspects it, and a mask over it.

Neither the rule nor the mask is a guarantee: they read no text. What does *not* live here: the
tags, of which none leaves (`dicom_header.py`).
"""

import numpy as np
from numpy.typing import NDArray

from modeling.medical_images.choice import BurnedIn
from modeling.medical_images.dicom_header import DicomHeader, ultrasound_boxes
from modeling.medical_images.errors import MedicalImageError

BORDER = 8
"""The mask blackens an eighth of each side: vendors put names into the margins."""

_SCREEN_MODALITIES = frozenset(("US", "SC", "OT", "ES", "XC", "EPS"))
# The rule's constants are our own, from drawn text on phantoms (tests/modeling/medical_images).
_STRONG_STEP = 96
_DARK_SHARE = 0.5
_TEXT_ROWS = 6
_STEPS_PER_ROW = 8


def check_burned_in(header: DicomHeader, policy: BurnedIn, *, is_suspected: bool) -> bool:
    """Return whether to mask; raises MedicalImageError where the policy blocks the image.

    Args:
        is_suspected: what `looks_burned_in` says, where the operator wants to know.
    """
    if header.burned_in != "YES" and not is_suspected:
        return False
    if policy == "block":
        cause = "says that" if header.burned_in == "YES" else "is of a kind, and looks, as if"
        raise MedicalImageError(
            "phi_burned_in",
            f"the file {cause} text about a patient is part of its pixels; remove it, or ask the"
            " operator for a key that masks or allows such images",
        )
    return policy == "mask"


def looks_burned_in(header: DicomHeader, grey: NDArray[np.uint8]) -> bool:
    """Guess, without reading, whether a margin holds text; a heuristic.

    Only ultrasound, secondary captures and the like that do not state BurnedInAnnotation = NO are
    looked at. A margin is suspected where most of it is dark, and at least six rows have eight or
    more steps of 96 grey levels between neighbours, as lines of letters have.
    """
    is_screen = header.modality in _SCREEN_MODALITIES or header.is_secondary_capture
    if header.burned_in == "NO" or not is_screen:
        return False
    height, width = grey.shape
    rows, columns = max(height // BORDER, 1), max(width // BORDER, 1)
    strips = (grey[:rows], grey[-rows:], grey[:, :columns], grey[:, -columns:])
    return any(_has_lines(strip) for strip in strips)


def mask_borders(header: DicomHeader, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return H x W (x 3) with all black but the ultrasound regions, or but the middle.

    Files that name their regions (PS3.3, C.8.5.5) keep these; of others the outer eighth of each
    side is blackened.
    """
    height, width = pixels.shape[:2]
    boxes = [box for box in ultrasound_boxes(header) if box[0] < box[2] and box[1] < box[3]]
    if not boxes:
        left, top = width // BORDER, height // BORDER
        boxes = [(left, top, width - left, height - top)]
    kept = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        kept[top:bottom, left:right] = True
    masked = pixels.copy()
    masked[~kept] = 0
    return masked


def _has_lines(strip: NDArray[np.uint8]) -> bool:
    if float((strip < _STRONG_STEP).mean()) < _DARK_SHARE:
        return False
    steps = np.abs(np.diff(strip.astype(np.int16), axis=1)) >= _STRONG_STEP
    return int((steps.sum(axis=1) >= _STEPS_PER_ROW).sum()) >= _TEXT_ROWS
