"""How sure a mean is, and whether two runs differ: both by resampling images, not questions.

Questions about one image are not independent, so whole images are drawn (the cluster bootstrap:
Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8). Two runs are
compared by flipping the signs of their differences, image by image (a paired randomisation test:
Noreen, *Computer-Intensive Methods for Testing Hypotheses*, 1989).

Shapes: N questions, C images, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2_000
_FLIPS = 10_000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, from 0 to 1.

    Args:
        low: of the interval that holds the mean of such questions in 95 of 100 cases; with `high`.
        num: of questions.
    """

    mean: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two runs on the same questions: the second less the first.

    Args:
        p_value: how often chance alone gives a difference at least as large.
    """

    mean: float
    low: float
    high: float
    p_value: float
    num: int


def estimate(values: Sequence[float], images: Sequence[str], seed: int = 0) -> Estimate:
    """Return the mean with its percentile interval.

    Args:
        values: of N questions, at least one.
        images: which image each is about.
    """
    sums_C, counts_C = _by_image(np.asarray(values, float), images)
    low, high = _interval(sums_C, counts_C, seed)
    return Estimate(float(np.mean(values)), low, high, len(values))


def difference(
    first: Sequence[float], second: Sequence[float], images: Sequence[str], seed: int = 0
) -> Difference:
    """Return second less first, with its interval and the p-value of its being none.

    Args:
        first: of N questions; `second` has the same ones in the same order.
    """
    differences_N = np.asarray(second, float) - np.asarray(first, float)
    sums_C, counts_C = _by_image(differences_N, images)
    low, high = _interval(sums_C, counts_C, seed)
    rng = np.random.default_rng(seed)
    signs_BC = rng.choice((-1.0, 1.0), (_FLIPS, len(sums_C)))
    found = abs(sums_C.sum())
    # The found one is one of all; a little room for sums in another order.
    reached = int((np.abs(signs_BC @ sums_C) >= found - 1e-9).sum()) + 1
    p_value = reached / (_FLIPS + 1)
    return Difference(float(differences_N.mean()), low, high, p_value, len(differences_N))


def _by_image(
    values_N: NDArray[np.float64], images: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(images))}
    of_N = np.array([numbers[name] for name in images])
    return (
        np.bincount(of_N, values_N).astype(np.float64),
        np.bincount(of_N).astype(np.float64),
    )


def _interval(
    sums_C: NDArray[np.float64], counts_C: NDArray[np.float64], seed: int
) -> tuple[float, float]:
    num = len(sums_C)
    drawn_BC = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), _RESAMPLES)
    means_B = (drawn_BC @ sums_C) / (drawn_BC @ counts_C)
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(means_B, (tail, 100 - tail))
    return float(low), float(high)
