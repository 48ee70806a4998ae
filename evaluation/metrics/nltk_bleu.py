"""NLTK's sentence BLEU, with types.

What does *not* live here: which weights (`legacy_v1.py`, `standard_v1.py`).
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any


@functools.cache
def _loaded() -> Any:  # noqa: ANN401 - NLTK has no types
    """Load NLTK with the first answer: it brings SciPy, two seconds that `--help` need not take."""
    from nltk.translate import bleu_score  # type: ignore[import-untyped]  # noqa: PLC0415

    return bleu_score


def sentence_bleu(
    reference: Sequence[str],
    said: Sequence[str],
    weights: Sequence[float],
    *,
    is_smoothed: bool = False,
) -> float:
    """Return the BLEU of one answer (Papineni et al., 2002), from 0 to 1.

    Args:
        weights: of runs of one word, of two, and so on.
        is_smoothed: an order without a match counts as 0.1 of one (Chen and Cherry, 2014, method 1)
            instead of as the least number there is.
    """
    bleu = _loaded()
    how = {"smoothing_function": bleu.SmoothingFunction().method1} if is_smoothed else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about orders without a match, of which there are many
        return float(bleu.sentence_bleu([list(reference)], list(said), tuple(weights), **how))
