"""Phrases by which a teacher shows that it read a text instead of an image, as patterns of our own.

The families are those of LLaVA-Med's tool (docs/llava-med.md), wider and without regard to case.
A text is looked through with `in` first: few have any of the words. What does *not* live here:
wording that is unsafe for patients (`safe_wording.py`), and the seed's own list (`legacy_v1.py`).
"""

import re

_SEE = r"(?:see|view|access|open|look at|inspect|examine|display)"
_CANNOT = r"(?:can ?not|can['\u2019]t|unable to|not able to|could not|couldn['\u2019]t)"
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|(?:large )?language|text-based)\b"
    rf"|\b(?:i|we)(?:['\u2019]m| am| are)? {_CANNOT} (?:directly |actually |currently )?"
    rf"(?:{_SEE}|provide|give|offer|answer|assist|help|comment|interpret|diagnose|share)\b"
    rf"|{_CANNOT} (?:directly |actually )?(?:see|view|access)(?: or \w+)? (?:the|this|that|any|your)"
    r" (?:\w+ ){0,2}(?:image|figure|picture|scan|photo)"
    r"|\b(?:not|n['\u2019]t|without|no|having)(?: \w+){0,2} access to (?:the|this|that|any|your)\b"
    r"(?: \w+){0,3} (?:image|figure|picture|scan|photo)"
    r"|\bwithout (?:seeing|viewing|(?:direct )?access)\b"
    r"|\bunable to (?:provide|give) (?:specific|further|more|any) details?\b"
    r"|\b(?:sorry|apologi[sz]e|my apologies)\b"
    r"|\bnot (?:\w+ )?(?:mentioned|provided|specified|stated|described|given|included) (?:in|by) the"
    r" (?:\w+ ){0,2}(?:caption|description|context|text|legend)"
    r"|\b(?:image|figure)(?: itself)? (?:is not|isn['\u2019]t|was not) (?:available|provided|visible)"
)
_REFUSAL_HINTS = (
    "as an a", "as a l", "as a t", "access", "cannot", "can not", "can't", "can\u2019t",
    "able to", "could", "without", "sorry", "apolog", "not ", "isn",
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
    rf"|\b(?:image|figure|provided|given|accompanying|supplied) (?:\w+ )?(?:description|context|text)"
    rf"|\b(?:description|context|text|passage) (?:provided|given|supplied)\b"
    rf"|\b(?:description|context|text|passage|article|paper|authors?) {_SAYS}\b"
    rf"|\b(?:mentioned|described|stated|indicated|noted|specified|written|discussed) (?:in|by) the "
    rf"(?:\w+ ){{0,2}}(?:text|context|article|paper|passage|authors?|study|report)\b"
    rf"|\b(?:provided|given|supplied) (?:information|details)\b|\binformation (?:provided|given)\b",
)
_SOURCE_HINTS = (
    "caption", "description", "context", "legend", "text", "passage", "excerpt",
    "information", "details", "article", "paper", "author", "study", "report",
)  # fmt: skip


def may_refuse(lower: str) -> bool:
    """Whether a lower-cased text has a word that a refusal needs."""
    return any(hint in lower for hint in _REFUSAL_HINTS)


def may_tell_source(lower: str) -> bool:
    """Whether a lower-cased text has a word that speaking of a given text needs."""
    return any(hint in lower for hint in _SOURCE_HINTS)


def refuses(lower: str) -> bool:
    """Whether a lower-cased answer says that there is nothing to see, or that it will not answer."""
    return _REFUSAL.search(lower) is not None


def leaks(lower: str) -> bool:
    """Whether a lower-cased text speaks of a text that only the teacher had."""
    return _LEAK.search(lower) is not None


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
