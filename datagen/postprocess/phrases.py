"""Phrases by which a teacher shows that it read a text instead of an image, as patterns of our own.

The families are those of LLaVA-Med's tool (docs/llava-med.md), wider and without regard to case.
A text is looked through with `in` first: few have any of the words. What does *not* live here:
wording that is unsafe for patients (`safe_wording.py`), and the seed's own list (`legacy_v1.py`).
"""

import re
from collections.abc import Sequence

_SEE = r"(?:see|view|access|open|look at|inspect|examine|display)"
_CANNOT = r"(?:can ?not|can['\u2019]t|unable to|not able to|could not|couldn['\u2019]t)"
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|(?:large )?language|text-based)\b"
    rf"|\b(?:i|we)(?:['\u2019]m| am| are)? {_CANNOT} (?:directly |actually |currently )?"
    rf"(?:{_SEE}|provide|give|offer|answer|assist|help|comment|interpret|diagnose|share)\b"
    rf"|{_CANNOT} (?:directly |actually )?(?:see|view|access)(?: or \w+)?"
    r" (?:the|this|that|any|your) (?:\w+ ){0,2}(?:image|figure|picture|scan|photo)"
    r"|\b(?:not|n['\u2019]t|without|no|having)(?: \w+){0,2} access to (?:the|this|that|any|your)\b"
    r"(?: \w+){0,3} (?:image|figure|picture|scan|photo)"
    r"|\bwithout (?:seeing|viewing|(?:direct )?access)\b"
    r"|\bunable to (?:provide|give) (?:specific|further|more|any) details?\b"
    r"|\b(?:sorry|apologi[sz]e|my apologies)\b"
    r"|\bnot (?:\w+ )?(?:mentioned|provided|specified|stated|described|given|included) (?:in|by)"
    r" the (?:\w+ ){0,2}(?:caption|description|context|text|legend)"
    r"|\b(?:image|figure)(?: itself)? (?:is not|isn['\u2019]t|was not)"
    r" (?:available|provided|visible)"
)
_REFUSAL_HINTS = (
    "sorry", "apolog", "access", "cannot", "can not", "can't", "can\u2019t", "able to", "could not",
    "couldn", "without ", "as an a", "as a l", "as an l", "as a t", "mentioned ", "specified ",
    "stated ", "included ", "image is not", "image itself", "image isn", "image was not",
    "figure is not", "figure itself", "figure isn", "not provided", "not described", "not given",
)  # fmt: skip

_SOURCE = (
    r"(?:(?:(?:image|figure|picture|scan|mri|ct|x-ray|histology|provided|given|accompanying|above"
    r"|article(?:['\u2019]s)?|brief|original|supplied) ){0,3}"
    r"(?:captions?|description|context|legend|text|passage|excerpt)"
    r"(?: (?:provided|given|above|supplied|of the (?:image|figure)))?"
    r"|(?:provided|given|supplied) (?:information|details)"
    r"|(?:information|details) (?:provided|given|supplied)"
    r"(?: (?:in|by|with) the (?:caption|description|context|text))?)"
)
_SAYS = (
    r"(?:mentions?|suggests?|indicates?|states?|says?|notes?|describes?|specifies|specify|explains?"
    r"|reports?|tells?(?: us)?|reveals?|points? out)"
)
_LEAD_IN = re.compile(
    rf"(?P<kept>(?:yes|no), )?(?:"
    rf"(?:according to|based on|as per|from|per|given|judging by) (?:the|this) {_SOURCE},\s*"
    rf"|as (?:mentioned|described|indicated|stated|noted|seen) (?:in|by) (?:the|this) {_SOURCE},\s*"
    rf"|(?:the|this) {_SOURCE} {_SAYS}(?: that|,)\s+)",
    re.IGNORECASE,
)
_INFIX = re.compile(
    rf",?\s*\(?\b(?:as|which is|which was) (?:mentioned|described|indicated|stated|noted|specified"
    rf"|provided|suggested|explained|given) (?:in|by) (?:the|this) {_SOURCE}\b\)?(?P<comma>,)?"
    rf"|,?\s*\(?\b(?:according to|based on|as per) (?:the|this) {_SOURCE}\b\)?(?P<comma2>,)?"
    r"|,?\s*\bin the context of the (?:\w+[- ]){0,2}(?:image|figure|mri|scan|x-ray|histology)"
    r" provided\b,?",
    re.IGNORECASE,
)
# "Description" in its ordinary sense stays; what speaks of a given text goes.
_LEAK = re.compile(
    rf"\bcaptions?\b|\b(?:figure|image) legends?\b"
    rf"|\b(?:in|from|by|per|to|on|with) the (?:\w+ ){{0,2}}(?:description|legend|passage|excerpt)\b"
    rf"|\b(?:image|figure|provided|given|accompanying|supplied) (?:\w+ )?"
    rf"(?:description|context|text)"
    rf"|\b(?:description|context|text|passage) (?:provided|given|supplied)\b"
    rf"|\b(?:description|context|text|passage|article|paper|authors?) {_SAYS}\b"
    rf"|\b(?:mentioned|described|stated|indicated|noted|specified|written|discussed) (?:in|by) the "
    rf"(?:\w+ ){{0,2}}(?:text|context|article|paper|passage|authors?|study|report)\b"
    rf"|\b(?:provided|given|supplied) (?:information|details)\b|\binformation (?:provided|given)\b",
)
_SOURCE_HINTS = (
    "caption", "description", "context", "legend", " text", "passage", "excerpt", "article",
    "paper", "author", "information", "details", " study", " report",
)  # fmt: skip
# The same as whole words: what a text as a whole must have before it is looked at closer. "t" is
# what is left of "can't".
_REFUSAL_WORDS = frozenset(
    {
        "sorry", "apologize", "apologise", "apologies", "access", "cannot", "t", "able", "unable",
        "could", "without", "ai", "artificial", "language", "text", "mentioned", "provided",
        "specified", "stated", "described", "given", "included", "itself", "available",
    }
)  # fmt: skip
_SOURCE_WORDS = frozenset(
    {
        "caption", "captions", "description", "context", "legend", "legends", "text", "passage",
        "excerpt", "article", "paper", "author", "authors", "information", "details", "study",
        "report",
    }
)  # fmt: skip
WORDS = _REFUSAL_WORDS | _SOURCE_WORDS
"""A text without any of them refuses nothing, but for what `has_split_refusal` finds."""
_TO_WORDS = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}
_TO_WORDS[0x2019] = " "  # the apostrophe of typesetters
_REACH_CHARS = 160
"""On both sides of a hint; every phrase above is shorter than its half."""


def has_any(lower: str, hints: Sequence[str]) -> bool:
    """Whether a text has one of some words."""
    for hint in hints:  # noqa: SIM110 - `any` takes thrice as long, and this is all the time
        if hint in lower:
            return True
    return False


def is_near(pattern: re.Pattern[str], lower: str, hints: Sequence[str]) -> bool:
    """Whether a pattern is found around one of the words without which it matches nothing.

    The few characters around a rare word are looked through, not the text: a tenth of the time.
    """
    for hint in hints:
        at = lower.find(hint)
        while at >= 0:
            if pattern.search(lower, max(0, at - _REACH_CHARS), at + _REACH_CHARS):
                return True
            at = lower.find(hint, at + _REACH_CHARS // 2)
    return False


def words_of(text: str) -> set[str]:
    """Return a text's words, lower-cased; of ASCII, letters and digits make words."""
    return set(text.translate(_TO_WORDS).split())


def has_split_refusal(lower: str) -> bool:
    """Whether a text has a refusal's hint of two words that are frequent alone."""
    return "can not" in lower or "not visible" in lower


def may_refuse(words: set[str], lower: str) -> bool:
    """Whether a text has a word that a refusal needs."""
    return not words.isdisjoint(_REFUSAL_WORDS) or has_split_refusal(lower)


def may_tell_source(words: set[str]) -> bool:
    """Whether a text has a word that speaking of a given text needs."""
    return not words.isdisjoint(_SOURCE_WORDS)


def refuses(lower: str) -> bool:
    """Whether a lower-cased answer says that nothing can be seen, or will not be said."""
    return is_near(_REFUSAL, lower, _REFUSAL_HINTS)


def leaks(lower: str) -> bool:
    """Whether a lower-cased text speaks of a text that only the teacher had."""
    return is_near(_LEAK, lower, _SOURCE_HINTS)


def cut_lead_in(answer: str) -> str | None:
    """Return an answer without what it begins with; all else keeps its case. None: nothing."""
    found = _LEAD_IN.match(answer)
    if found is None:
        return None
    rest = answer[found.end() :]
    kept = found["kept"]
    return kept + rest if kept else rest[:1].upper() + rest[1:]


def remove_infixes(answer: str) -> str | None:
    """Return an answer without the phrases that stand inside it; None: it has none."""
    rest, num_removed = _INFIX.subn(_joint, answer)
    if not num_removed:
        return None
    rest = rest.strip(" ,")
    return rest[:1].upper() + rest[1:] if answer[:1].isupper() else rest


def _joint(found: re.Match[str]) -> str:
    """Return what stays where a phrase was: a comma that had only one side of it stays."""
    has_front = found[0].startswith(",")
    has_back = found[0].endswith(",")
    return "," if has_back and not has_front else ""
