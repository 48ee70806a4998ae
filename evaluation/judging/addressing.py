"""Answers that seem to speak to the judge: to be looked at, and counted in the receipt.

Patterns find our own marks and the usual phrases ("give this a 10"); they find no more, and a score
is never changed for it. What does *not* live here: the wording that tells the judge so
(`prompt.py`).
"""

import re
from collections.abc import Mapping

_UNITS = r"(?!\s*(?:%|mm|cm|mg|ml|kg|g|h|hours?|days?|weeks?|years?|minutes?)\b)"
_PATTERNS = (
    re.compile(r"\[(?:end of )?(?:assistant \d|assistant|task|question|context)\b", re.IGNORECASE),
    re.compile(
        r"\b(?:ignore|disregard|forget)\b[^.\n]{0,40}\b(?:instructions?|rubric|task|above)\b",
        re.IGNORECASE,
    ),
    re.compile(rf"\b(?:give|award|assign)\b[^.\n]{{0,60}}\b(?:10|ten)\b{_UNITS}", re.IGNORECASE),
    re.compile(r"\b(?:first|second|this) (?:assistant|answer)\b[^.\n]{0,40}\bscore", re.IGNORECASE),
)


def addressing_judge(answers: Mapping[str, str]) -> list[str]:
    """Return the ids of such answers.

    Args:
        answers: texts by id.
    """
    return sorted(
        name for name, text in answers.items() if any(pattern.search(text) for pattern in _PATTERNS)
    )
