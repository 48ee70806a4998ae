"""How LLaVA-Med's metrics see a text (`legacy-v1`), with all of its oddities kept.

The rules come from the public VQA evaluation and its defects from LLaVA-Med's use of them; they
are kept since the published tables were computed so. What does *not* live here: the metrics
(`legacy_v1.py`) and what we think is right (`standard_text.py`).
"""

import json
import re
from collections import Counter
from pathlib import Path

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# "not behind a digit" was meant; written as it was, it looks ahead for "<=" and says nothing.
_DOT = re.compile(r"(?!<=\d)\.(?!\d)")
_MOST_DOTS = 32  # a flag of re that was given as a count
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS: dict[str, str] = json.loads(
    Path(__file__).with_name("contractions.json").read_text(encoding="utf-8")
)


def normalise(text: str) -> str:
    """Return a text as the metrics compare it; it may be empty: "A" is an article."""
    text = text.lower()
    out = text
    has_thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in _MARKS:
        is_deleted = has_thousands or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if is_deleted else " ")
    out = _DOT.sub("", out, count=_MOST_DOTS)
    words = [_NUMBERS.get(word, word) for word in out.split()]
    kept = [_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(kept).replace(",", "")


def bag_of(text: str) -> Counter[str]:
    """Return how often each word stands in a text that is normalised already."""
    return Counter(text.lower().split())
