"""From stored values to 8 bits: through a table of all values that occur, so exactly, and fast.

A table has at most 65,536 entries whatever the image's size; deeper values are first put on as many
steps between the least and the greatest. What does *not* live here: what a file says of its values
(`dicom.py`, `nifti.py`), which give their modality's rescaling as a function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeling.medical_images.windows import Window

MAX_STEPS = 65_536
RANGE_PERCENTILES = (0.5, 99.5)
"""Of an image without a window of its own: as nnU-Net clips intensities (Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z)."""

_STRIP_ROWS = 256

Values = NDArray[np.float64]
Scale = Callable[[Values], Values]
"""From values to others, or to 0..1."""


@dataclass(frozen=True, slots=True)
class ValueTable:
    """All values of an image, once each.

    Args:
        steps: the image as indices, H x W.
        values: of each index, after the modality's rescaling.
        counts: pixels of each index, padding not counted.
    """

    steps: NDArray[np.uint16]
    values: Values
    counts: NDArray[np.int64]

    def percentile_range(self) -> tuple[float, float]:
        """Return the values at RANGE_PERCENTILES."""
        order = np.argsort(self.values, kind="stable")
        total = np.cumsum(self.counts[order])
        if total[-1] == 0:
            return 0.0, 0.0
        places = np.searchsorted(total, [total[-1] * each / 100 for each in RANGE_PERCENTILES])
        lowest, highest = self.values[order][np.minimum(places, len(order) - 1)]
        return float(lowest), float(highest)

    def grey(self, scale: Scale, *, is_inverted: bool) -> NDArray[np.uint8]:
        """Return the image in 8 bits, H x W."""
        shades = scale(self.values)
        if is_inverted:
            shades = 1 - shades
        table = np.round(np.nan_to_num(shades) * 255).astype(np.uint8)
        return table[self.steps]

    def range_scale(self) -> Scale:
        """Return the scale of an image that states no window."""
        lowest, highest = self.percentile_range()
        return lambda values: between(values, lowest, highest)


def tabulate(
    stored: NDArray[np.generic], rescale: Scale, padding: Sequence[tuple[float, float]] = ()
) -> ValueTable:
    """Return the table of an image's values.

    Args:
        stored: H x W, integers or floats.
        rescale: the modality's.
        padding: ranges of stored values, ends included, that are no part of the picture.
    """
    lowest, highest = float(np.nanmin(stored)), float(np.nanmax(stored))
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        stored = np.nan_to_num(stored)  # pyright: ignore[reportArgumentType] - floats only here
        lowest, highest = float(stored.min()), float(stored.max())
    is_exact = stored.dtype.kind in "iub" and highest - lowest < MAX_STEPS
    step = 1.0 if is_exact else max(highest - lowest, 1e-30) / (MAX_STEPS - 1)
    num_steps = int(highest - lowest) + 1 if is_exact else MAX_STEPS
    steps = np.empty(stored.shape, np.uint16)
    counts = np.zeros(num_steps, np.int64)
    for top in range(0, stored.shape[0], _STRIP_ROWS):  # bincount makes 64 bits of each index
        strip = stored[top : top + _STRIP_ROWS]
        placed = steps[top : top + _STRIP_ROWS]
        if is_exact:
            placed[:] = strip.astype(np.int64) - int(lowest)
        else:
            placed[:] = np.round((strip.astype(np.float64) - lowest) / step)
        counts += np.bincount(placed.ravel(), minlength=num_steps)
    domain = lowest + np.arange(num_steps, dtype=np.float64) * step
    for start, end in padding:
        counts[(domain >= start) & (domain <= end)] = 0
    return ValueTable(steps, rescale(domain), counts)


def linear(values: Values, window: Window) -> Values:
    """Return 0..1 by the function LINEAR (PS3.3, C.11.2.1.2.1), DICOM's default."""
    span = max(window.width - 1, 1e-9)  # a width of 1 is a step
    return np.clip((values - (window.center - 0.5)) / span + 0.5, 0, 1)


def linear_exact(values: Values, window: Window) -> Values:
    """Return 0..1 by LINEAR_EXACT (PS3.3, C.11.2.1.3.2)."""
    return np.clip((values - window.center) / window.width + 0.5, 0, 1)


def sigmoid(values: Values, window: Window) -> Values:
    """Return 0..1 by SIGMOID (PS3.3, C.11.2.1.3.1)."""
    exponent = np.clip(-4 * (values - window.center) / window.width, -700, 700)
    return 1 / (1 + np.exp(exponent))


def between(values: Values, lowest: float, highest: float) -> Values:
    """Return 0..1 between two values; all 0 where they are one."""
    return np.clip((values - lowest) / max(highest - lowest, 1e-9), 0, 1)
