"""NLTK's sentence BLEU, with types.

What does *not* live here: which weights (`legacy_v1.py`, `standard_v1.py`).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from nltk.translate import bleu_score  # type: ignore[import-untyped]

_bleu: Any = bleu_score
_sentence_bleu: Callable[..., float] = _bleu.sentence_bleu
_SMOOTHING: Any = _bleu.SmoothingFunction().method1


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
    how = {"smoothing_function": _SMOOTHING} if is_smoothed else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about orders without a match, of which there are many
        return float(_sentence_bleu([list(reference)], list(said), tuple(weights), **how))
