"""Two scores out of a judge's reply: read tolerantly, counted strictly.

"8 7", "8, 7", "8/10 7/10", "**8** and 7.5" are scores; "11 9", one number, or a sentence are none,
and none is ever put in their place. What does *not* live here: what scores mean (`summary.py`).
"""

import re

LEAST, MOST = 1.0, 10.0
_LABEL = re.compile(r"\b(?:assistant|answer|score|scores)\s*#?\s*[12]?\s*[:=]", re.IGNORECASE)
_SCORE = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)\s*(?:/\s*10\b|(?:out\s+)?of\s+10\b)?(?![\w.]*\d)")
_LEFT = re.compile(r"[\s,;:|&*_`()\[\]/\-\u2013]|\band\b|\bscores?\b|\bassistant\b", re.IGNORECASE)


def scores_in(reply: str) -> tuple[float, float] | None:
    """Return the two scores of the first line that is not empty; None: it holds no two."""
    line = next((line for line in reply.splitlines() if line.strip()), "")
    line = _LABEL.sub(" ", line)
    found = [float(text) for text in _SCORE.findall(line)]
    rest = _LEFT.sub("", _SCORE.sub("", line)).strip(".")
    if rest or len(found) != 2 or not all(LEAST <= score <= MOST for score in found):
        return None
    return found[0], found[1]
