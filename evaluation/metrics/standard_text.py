"""How the corrected metrics see a text (`standard-v1`): words, and nothing that depends on luck.

What does *not* live here: the metrics (`standard_v1.py`).
"""

import re
import unicodedata

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
# 1,500 and 1.5 are one word; everything else that is neither letter nor digit divides words.
_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W\d_]+)*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def words_of(text: str) -> tuple[str, ...]:
    """Return a text's words: compatible characters one (NFKC), case and articles gone.

    Numbers up to ten are digits, commas between thousands are gone, and a hyphen divides: "x-ray"
    is two words, as is "x ray". "A" alone stays, since an answer that vanishes can be neither right
    nor wrong.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    spelt: list[str] = _WORD.findall(_THOUSANDS.sub("", plain))
    found = [_NUMBERS.get(word, word) for word in spelt]
    return tuple(word for word in found if word not in _ARTICLES) or tuple(found)
