"""Texts that look as if they named a patient, before they are sent anywhere.

Patterns find what is written as such things usually are (dates with a day, numbers behind "MRN",
addresses of e-mail, telephone numbers, titles with names); they find no more, so this warns and
proves nothing. What does *not* live here: images, and removing anything.
"""

import re
from collections.abc import Iterable, Mapping

_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "a date with a day": re.compile(
        r"\b(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)?\d{2}|(?:19|20)\d{2}-\d{2}-\d{2})\b"
    ),
    "a record number": re.compile(
        r"\b(?:MRN|PID|SSN|NHS|accession|patient (?:id|no|number))\b\W{0,3}\w*\d{3,}", re.IGNORECASE
    ),
    "an e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]{2,}\b"),
    "a telephone number": re.compile(
        r"(?<!\w)(?:\+\d{1,3}[\s-]?)?\(?\d{3}\)?[\s-]\d{3}[\s-]\d{4}\b"
    ),
    "a name behind a title": re.compile(
        r"\b(?:Mr|Mrs|Ms|Miss|Herr|Frau|Dr|Prof)\b\.?\s+[A-Z][\w'-]+"
        r"|\b(?:dr|prof)\.\s+[a-z]+ [a-z]+"
    ),
    "a name behind a label": re.compile(
        r"\b(?:patient(?:'s)?(?: name)?|pt|name|dob|date of birth)\s*[:=]\s*\w", re.IGNORECASE
    ),
}


def suspicions(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the ids of texts by what they seem to hold.

    Args:
        texts: ids and texts.
    """
    found: dict[str, list[str]] = {}
    for name, text in texts:
        for what, pattern in _PATTERNS.items():
            if pattern.search(text):
                found.setdefault(what, []).append(name)
    return found
