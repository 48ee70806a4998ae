"""Rules of an operator's own about what may be asked: phrases in a file of JSON.

{"rules": [{"name": "weapons", "phrases": ["how to build a bomb"]}]}
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.gateway.threads import in_thread

_MOST_PHRASES = 10_000
_LOOK_IN_LOOP_LENGTH = 2_000_000
"""Characters times phrases that are looked through here (about 1 ms); more goes to a thread."""
_FOLDING = 100
"""To fold a character takes as long as to look for so many phrases at it."""


class ModerationError(Exception):
    """The check could not be made; the message says why in one line, without any content."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is refused under one name: text that has one of these phrases in it."""

    name: str
    phrases: list[str]


class RuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of rules, in JSON."""

    rules: list[Rule]


class LocalRules:
    """Phrases, found wherever they stand: case, width, spacing and unseen marks do not count.

    Plain search and no patterns: its time grows with the text and with nothing in it.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._phrases = [(folded(phrase), rule.name) for rule in rules for phrase in rule.phrases]
        if not all(phrase for phrase, _ in self._phrases):
            raise ValueError("a phrase is empty")
        if len(self._phrases) > _MOST_PHRASES:
            raise ValueError(f"there are more than {_MOST_PHRASES} phrases")

    async def refusal(self, texts: Sequence[str]) -> str | None:
        """See `Check`."""
        if sum(map(len, texts)) * (len(self._phrases) + _FOLDING) <= _LOOK_IN_LOOP_LENGTH:
            return self._find(texts)
        return await in_thread(lambda: self._find(texts))

    async def close(self) -> None:
        """Nothing is open."""

    def _find(self, texts: Sequence[str]) -> str | None:
        for text in map(folded, texts):
            for phrase, name in self._phrases:
                if phrase in text:
                    return name
        return None


def read_rules(path: Path) -> LocalRules:
    """Return the rules of a file; raises OSError or ValueError with its path and what is wrong."""
    try:
        return LocalRules(msgspec.json.decode(path.read_bytes(), type=RuleFile).rules)
    except ValueError as error:  # msgspec's is one; its text names places, no values
        raise ValueError(f"{path}: {error}") from error


def folded(text: str) -> str:
    """Return text as it is compared: compatible forms as one, lower case, single spaces.

    What is not seen (zero-width spaces and joiners, soft hyphens, marks of direction) is left out.
    """
    if not text.isascii():
        unseen = [ord(each) for each in set(text) if unicodedata.category(each) == "Cf"]
        text = text.translate(dict.fromkeys(unseen)) if unseen else text
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
