"""Answers that speak to a patient as a physician would, and texts that seem to name one.

A model that is trained on "you should take ..." learns to prescribe. What does *not* live here:
the patterns of identifiers (`services/endpoint_client/identifiers.py`), which are shared with what
is sent to endpoints.
"""

import re

from datagen.postprocess.phrases import has_any, is_near
from services.endpoint_client.identifiers import suspicions

_ACT = (
    r"(?:take|taking|stop|start|begin|continue|use|apply|avoid|increase|reduce|decrease|switch"
    r"|undergo|seek|consult|see|visit|contact|ask|talk|speak|go|get|schedule|follow|have|receive"
    r"|be treated)"
)
_ADVICE = re.compile(
    rf"\byou (?:should|must|need to|ought to|have to|had better|will need to) (?:\w+ )?{_ACT}\b"
    rf"|\b(?:please|kindly) (?:{_ACT}) (?:a|an|the|your)\b"
    r"|\b(?:i|we) (?:would )?(?:diagnose|prescribe)\b"
    r"|\b(?:i|we) (?:would )?(?:recommend|advise|suggest|urge) (?:that )?you\b"
    r"|\byour (?:own )?(?:doctor|physician|healthcare|health care|symptoms?|condition|diagnosis"
    r"|medications?|treatment|tumou?r|cancer|lesion|lungs?|heart|brain|liver|kidneys?|doses?|dosage"
    r"|disease|health|pain|surgeon|x-ray|scan|mri|ct)\b"
    r"|\byou (?:are|may be|might be) (?:suffering|diagnosed|ill|sick)\b"
    r"|(?<!do )(?<!if )\byou (?:may |might |probably |likely |seem to |appear to )?"
    r"have (?:an?|the)\b"
    r"|\btake \d[\d.,]* ?(?:mg|mcg|g|ml|tablets?|pills?|capsules?|doses?)\b"
    r"|\b(?:recommended|prescribed|appropriate|usual) (?:dose|dosage) (?:is|would be|for you)\b"
)
_ADVICE_HINTS = (
    "you ", "your ", "i diagnose", "we diagnose", "would diagnose", "prescribe", "please",
    "kindly", "take ", " dose", " dosage",
)  # fmt: skip

_NUMBER = re.compile(r"\d(?:\d\d|[./-]\d)")
_DIGITS = tuple("0123456789")
_TITLES = frozenset(["mr", "mrs", "ms", "miss", "herr", "frau", "dr", "prof"])
_ADVICE_WORDS = frozenset(
    ["you", "your", "diagnose", "prescribe", "please", "kindly", "take", "dose", "doses", "dosage"]
)


WORDS = _TITLES | _ADVICE_WORDS
"""A text without any of them has no advice, and no name behind a title."""


def may_advise(words: set[str]) -> bool:
    """Whether a text has a word that advice needs."""
    return not words.isdisjoint(_ADVICE_WORDS)


def advises(lower: str) -> bool:
    """Whether a lower-cased answer orders, doses, diagnoses, or takes a reader for a patient."""
    return is_near(_ADVICE, lower, _ADVICE_HINTS)


def may_identify(words: set[str], text: str) -> bool:
    """Whether a text has what any pattern of an identifier needs: digits, @, a title, a label."""
    if "@" in text or ":" in text or "=" in text or not words.isdisjoint(_TITLES):
        return True
    return has_any(text, _DIGITS) and _NUMBER.search(text) is not None


def identifies(text: str) -> bool:
    """Whether a text seems to name a patient; a pattern proves nothing."""
    return bool(suspicions([("", text)]))
