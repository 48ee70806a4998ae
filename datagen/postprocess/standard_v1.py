"""Our corrected rules, the profile `standard-v1`: case stays, and the image is never lost.

A turn goes where its question or its answer shows that a text was read, refuses, advises a patient,
names somebody, or is a benchmark's question; the others stay, and the image's marker stands in the
first one that does. What does *not* live here: the patterns (`phrases.py`, `safe_wording.py`),
images and near-duplicates.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

from datagen.postprocess import phrases, safe_wording
from datagen.postprocess.parsing import turns_of
from datagen.postprocess.phrases import (
    cut_lead_in,
    has_split_refusal,
    leaks,
    may_refuse,
    may_tell_source,
    refuses,
    remove_infixes,
    words_of,
)
from datagen.postprocess.safe_wording import advises, identifies, may_advise, may_identify
from datagen.postprocess.samples import Item, Note, Rejected, Sample, items_turns
from datagen.postprocess.words import WordReader, WordTable
from datagen.teacher_turns import Pair
from modeling.conversations import IMAGE_MARKER

_SPOKEN_MARKER = "[image]"  # what a literal marker in a teacher's text becomes
_NO_WORDS = set[str]()


class StandardV1:
    """The profile.

    Args:
        seed: decides with an item's id whether its image stands before or after the first question,
            so that no item depends on another.
        is_benchmark_question: whether a question is one that a benchmark asks.
    """

    name = "standard-v1"

    def __init__(
        self, seed: int, is_benchmark_question: Callable[[str], bool] | None = None
    ) -> None:
        self._key = f"{seed}:"
        self._is_asked = is_benchmark_question
        self._reader = WordReader()
        self._hints = WordTable(phrases.WORDS | safe_wording.WORDS, self._reader)

    def look_over(self, samples: Sequence[Sample]) -> None:
        """Take texts apart into turns, and find those in which no rule has anything to look for.

        Only what is all ASCII is told here: the words of other texts are parted in another way.
        """
        asked: list[Sample] = []
        texts: list[bytes] = []
        for sample in samples:
            text = _text_of(_pairs_of(sample))
            if text.isascii() and not (
                IMAGE_MARKER in text
                or has_split_refusal(text.lower())
                or may_identify(_NO_WORDS, text)
            ):
                asked.append(sample)
                texts.append(text.encode())
        words, first = self._reader.read(texts)
        has_hint = self._hints.has_any(words, first)
        places = first.tolist()
        for index, sample in enumerate(asked):
            if not has_hint[index]:
                sample.plain_words = words[places[index] : places[index + 1]]

    def item_of(self, sample: Sample, note: Note) -> Item:
        """Return the item of a sample; raises Rejected."""
        pairs = _pairs_of(sample)
        for _ in range(sample.num_unpaired):
            note("turn", "unpaired", -1)
        if not pairs:
            raise Rejected("no_turns")
        is_plain = sample.plain_words is not None
        kept = self._kept(pairs, _NO_WORDING if is_plain else _wording_of(pairs), note)
        if not kept:
            raise Rejected("no_turn_left")
        is_first = sample.is_marker_first
        if is_first is None:
            is_first = self._coin(sample.id)
        return Item(
            id=sample.id,
            image=sample.image,
            domain=sample.domain,
            licence=sample.licence or None,
            conversations=items_turns(kept, sample.image, is_marker_first=is_first),
        )

    def _kept(self, pairs: list[Pair], wording: "_Wording", note: Note) -> list[Pair]:
        kept: list[Pair] = []
        for number, pair in enumerate(pairs):
            question, answer = pair[0].strip(), pair[1].strip()
            if wording.markers:
                question, answer = _neutral(question), _neutral(answer)
                if (question, answer) != (pair[0].strip(), pair[1].strip()):
                    note("change", "marker_neutralised", number)
            rule = self._rule_against(question, answer, wording)
            if rule is None and wording.sources:
                answer, rule = _without_source(answer, number, note)
            if rule is None:
                kept.append((question, answer))
            else:
                note("turn", rule, number)
        return kept

    def _rule_against(self, question: str, answer: str, wording: "_Wording") -> str | None:
        if not question or not answer:
            return "empty_text"
        rule = _rule_of_words(question, answer, wording)
        if rule is None and self._is_asked is not None and self._is_asked(question):
            return "benchmark_question"
        return rule

    def _coin(self, name: str | int) -> bool:
        # An id may hold what UTF-8 cannot; it is a reject later, and no reason to end here.
        key = f"{self._key}{name}".encode(errors="surrogatepass")
        return blake2b(key, digest_size=1).digest()[0] < 128


class _Wording:
    """What a sample's text may have, for looking closer."""

    __slots__ = ("advice", "identifiers", "markers", "refusals", "sources")

    def __init__(
        self, *, refusals: bool, sources: bool, advice: bool, identifiers: bool, markers: bool
    ) -> None:
        self.refusals = refusals
        self.sources = sources
        self.advice = advice
        self.identifiers = identifiers
        self.markers = markers


_NO_WORDING = _Wording(
    refusals=False, sources=False, advice=False, identifiers=False, markers=False
)


def _wording_of(pairs: list[Pair]) -> _Wording:
    text = _text_of(pairs)
    words, lower = words_of(text), text.lower()
    return _Wording(
        refusals=may_refuse(words, lower),
        sources=may_tell_source(words),
        advice=may_advise(words),
        identifiers=may_identify(words, text),
        markers=IMAGE_MARKER in text,
    )


def _pairs_of(sample: Sample) -> list[Pair]:
    """Return a sample's turns, taken apart once."""
    if sample.turns is None:
        parsed = turns_of(sample.result or "")
        sample.turns, sample.num_unpaired = parsed.pairs, parsed.num_unpaired
    return sample.turns


def _text_of(pairs: list[Pair]) -> str:
    return "\n".join([side for pair in pairs for side in pair])


def _rule_of_words(question: str, answer: str, wording: _Wording) -> str | None:
    if wording.refusals and refuses(answer.lower()):
        return "refusal"
    if wording.sources and leaks(question.lower()):
        return "caption_leak"
    if wording.advice and advises(answer.lower()):
        return "advice"
    if wording.identifiers and (identifies(question) or identifies(answer)):
        return "identifier"
    return None


def _without_source(answer: str, number: int, note: Note) -> tuple[str, str | None]:
    """Return an answer without phrases about a text, and the rule that drops it, if one does."""
    if not may_tell_source(words_of(answer)):
        return answer, None
    if (cut := cut_lead_in(answer)) is not None:
        note("change", "lead_in_cut", number)
        answer = cut
        if not may_tell_source(words_of(answer)):  # as nearly always: nothing else to look for
            return answer, None if answer else "empty_text"
    if (rest := remove_infixes(answer)) is not None:
        note("change", "infix_removed", number)
        answer = rest
    if leaks(answer.lower()):
        return answer, "caption_leak"
    return answer, None if answer else "empty_text"


def _neutral(text: str) -> str:
    return text.replace(IMAGE_MARKER, _SPOKEN_MARKER).strip()
