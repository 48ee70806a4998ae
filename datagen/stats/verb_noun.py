"""The root verb of a sentence and its direct noun, found by rules and a lexicon.

LLaVA-Med's data page draws both; who made it parsed with a model. This is no parser: it knows the
verbs of `lexicon.py` alone, reads the first sentence that has one (of a text with a question: its
first question), and takes the end of a run of words for the head of a noun phrase. Without a direct
object the noun is, in this order, the passive's or the copula's subject or complement, the subject,
and the noun behind the first preposition. Measured on tests' sentences only; good for counting, not
for reading one sentence. English alone. What does *not* live here: counting (`counting.py`).
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from datagen.stats import lexicon

MOST_CHARS = 4_000
"""Of a text: what is behind is not read."""
_SENTENCE = re.compile(r"[^.?!\n]+(?:\.(?=\w)[^.?!\n]*)*[.?!]?")
_TOKEN = re.compile(r"n't|[a-z0-9]+(?:[-'/][a-z0-9]+)*|[,;:()]")
_CONTRACTED = (("can't", "can not"), ("won't", "will not"), ("n't", " not"))
_CLITICS = (("what's", "what is"), ("it's", "it is"), ("there's", "there is"), ("i'm", "i am"))
_PUNCTUATION = frozenset(",;:()")
_LEAD_INS = lexicon.PREPOSITIONS | frozenset(
    ("given", "looking", "considering", "according", "if", "when", "while", "because", "although")
)
_FORMS = lexicon.verb_forms()
_PARTICIPLES = frozenset({"participle", "ing"})
_NOT_IN_NOUNS = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.AUXILIARIES | _PUNCTUATION


_NO_NOUNS = _NOT_IN_NOUNS - lexicon.DETERMINERS
_BEFORE_NOUNS = lexicon.DETERMINERS | lexicon.PREPOSITIONS
_PURE_PRONOUNS = lexicon.PRONOUNS - lexicon.DETERMINERS
_PASSED_OVER = lexicon.ADVERBS - {"there", "no", "more", "most", "about"}
_JOINTS = frozenset((",", "and", "or"))
_POINTERS = frozenset(("this", "that", "these", "those", "which", "what"))


class Root(NamedTuple):
    """A root verb's lemma and its noun in the singular; None: none was found."""

    verb: str
    noun: str | None


@dataclass(slots=True)
class _Phrase:
    """A noun phrase.

    Args:
        head: None: it has none (a pronoun, an adjective, nothing).
        end: the place behind it.
    """

    head: str | None
    end: int


def root_of(text: str) -> Root | None:
    """Return the root verb and noun of a question, an instruction or an answer; None: no verb."""
    sentences = [found.group().strip() for found in _SENTENCE.finditer(text[:MOST_CHARS])]
    questions = [sentence for sentence in sentences if sentence.endswith("?")]
    for sentence in (*questions, *sentences):
        if root := _root_of_sentence(sentence):
            return root
    return None


def _root_of_sentence(sentence: str) -> Root | None:
    tokens = _tokens(sentence)
    for candidate in (_without_lead_in(tokens), tokens):
        found = _Sentence(candidate, is_question=sentence.endswith("?")).root()
        if found is not None:
            return found
    return None


def _tokens(sentence: str) -> list[str]:
    lowered = sentence.lower().replace("\u2019", "'")
    for short, long in (*_CONTRACTED, *_CLITICS):
        lowered = lowered.replace(short, long)
    return _TOKEN.findall(lowered)


def _without_lead_in(tokens: list[str]) -> list[str]:
    """Return what stands behind "In this image," or "Yes,"."""
    if len(tokens) > 1 and tokens[0] in lexicon.ADVERBS and tokens[1] == ",":
        tokens = tokens[2:]
    if len(tokens) < 3 or tokens[0] not in _LEAD_INS or "," not in tokens:
        return tokens
    if tokens[1] in lexicon.QUESTION_WORDS:  # "In which part, ..." asks
        return tokens
    return tokens[tokens.index(",") + 1 :]


class _Sentence:
    """The words of one sentence, and what the rules find in them."""

    def __init__(self, tokens: list[str], *, is_question: bool) -> None:
        self._tokens = tokens
        self._is_question = is_question

    def root(self) -> Root | None:
        """Return the root; None: no verb of the lexicon stands here."""
        start = self._skip(0)
        if self._is_imperative(start):
            return self._with_object(start, subject=None)
        subject, at = self._subject(start)
        while at < len(self._tokens):
            word = self._tokens[at]
            if word in lexicon.AUXILIARIES:
                return self._behind_auxiliary(at, subject)
            if self._is_finite(at):
                return self._with_object(at, subject)
            at += 1
        return self._only_participle()

    def _is_imperative(self, at: int) -> bool:
        kinds = self._kinds(at)
        if "base" not in kinds or self._word(at) in lexicon.AUXILIARIES:
            return False
        after = self._word(at + 1)
        if self._word(at) in lexicon.AMBIGUOUS:
            return after not in lexicon.AUXILIARIES and not self._kinds(at + 1) & {"s", "past"}
        return after not in lexicon.AUXILIARIES

    def _subject(self, start: int) -> tuple[str | None, int]:
        """Return the first noun phrase's head and the place behind it."""
        at = start
        if self._word(at) in lexicon.PREPOSITIONS and self._word(at + 1) in lexicon.QUESTION_WORDS:
            phrase = self._phrase(at + 1)  # "On which side are the lesions?": a place, no subject
            return None, phrase.end
        if self._word(at) == "how":
            at += 1
        phrase = self._phrase(at)
        return phrase.head, phrase.end

    def _is_finite(self, at: int) -> bool:
        """Whether a verb stands here that may be the sentence's: no reduced relative clause."""
        kinds = self._kinds(at)
        if not kinds - _PARTICIPLES:
            return False
        before = self._word(at - 1)
        if before not in _POINTERS and (before in _BEFORE_NOUNS):
            return False
        if "past" in kinds and "base" not in kinds:
            later = self._tokens[at + 1 :]
            is_reduced = self._word(at + 1) in lexicon.PREPOSITIONS
            return not (is_reduced and any(word in lexicon.AUXILIARIES for word in later))
        return True

    def _behind_auxiliary(self, at: int, subject: str | None) -> Root:
        """Return the root of a clause whose first auxiliary is here."""
        last, at = self._last_auxiliary(at)
        if self._is_main(last, at):
            return self._main(last, at, subject)
        if not self._is_question:
            phrase = self._phrase(at)
            return self._verbless(last, phrase.head, subject, phrase.end)
        return self._inverted(last, at, subject)

    def _inverted(self, last: str, at: int, subject: str | None) -> Root:
        """Return the root of a question: what stands behind its auxiliary is its subject."""
        is_there = self._word(at) == "there"
        phrase = self._phrase(at + is_there)
        if is_there:
            return Root("be", phrase.head or subject)
        at = self._skip(phrase.end)
        if self._word(at) in lexicon.AUXILIARIES and self._goes_on(last, self._word(at)):
            last, at = self._last_auxiliary(at)  # "Can the image be used?"
            subject = phrase.head or subject
        is_what = self._word(0) in {"what", "who"} and last in lexicon.BE and phrase.head
        is_reduced = is_what and "ing" not in self._kinds(at)  # "What is the mass seen here?"
        if self._is_main(last, at) and not is_reduced:
            return self._main(last, at, phrase.head or subject)
        return self._verbless(last, phrase.head or self._phrase(at).head, subject, at)

    def _last_auxiliary(self, at: int) -> tuple[str, int]:
        """Return the last of a chain such as "has been", and the place behind it."""
        last, at = self._word(at), self._skip(at + 1)
        while self._word(at) in lexicon.AUXILIARIES and self._goes_on(last, self._word(at)):
            last, at = self._word(at), self._skip(at + 1)
        return last, at

    def _verbless(self, last: str, noun: str | None, subject: str | None, at: int) -> Root:
        """Return a copula with its complement, or `have` with its object."""
        if last in lexicon.HAVE:
            return Root("have", noun or subject or self._prepositional(at))
        if last in lexicon.BE:
            is_copula_of_question = self._is_question and subject is not None
            found = (subject if is_copula_of_question else noun) or noun or subject
            return Root("be", found or self._prepositional(at))
        return Root("do" if last in lexicon.DO else "be", noun or subject)

    @staticmethod
    def _goes_on(last: str, word: str) -> bool:
        if last in lexicon.MODALS:
            return word in {"be", "have"}
        if last in lexicon.HAVE:
            return word == "been"
        if last in lexicon.DO:
            return word == "have"
        return word == "being"

    def _is_main(self, last: str, at: int) -> bool:
        """Whether the main verb stands here, in the form that the auxiliary asks for."""
        kinds = self._kinds(at)
        if last in lexicon.BE:
            is_adjective = self._word(at) in lexicon.ADJECTIVES or self._word(at) == "present"
            return bool(kinds & _PARTICIPLES) and not is_adjective and not self._is_premodifier(at)
        if last in lexicon.HAVE:
            return "participle" in kinds and not self._is_premodifier(at)
        return "base" in kinds and not (
            self._word(at) in lexicon.AMBIGUOUS and self._word(at - 1) in lexicon.DETERMINERS
        )

    def _is_premodifier(self, at: int) -> bool:
        """Whether "increased density" stands here, and no verb."""
        after = self._word(at + 1)
        is_noun = bool(after) and after not in _NOT_IN_NOUNS and after not in lexicon.DETERMINERS
        is_noun = is_noun and after not in lexicon.ADVERBS and after not in lexicon.PRONOUNS
        return is_noun and "ing" not in self._kinds(at) and not after.endswith("ly")

    def _main(self, last: str, at: int, subject: str | None) -> Root:
        is_passive = last in lexicon.BE and "participle" in self._kinds(at)
        if is_passive:
            lemma = _FORMS[self._word(at)][0]
            return Root(lemma, subject or self._phrase(at + 1).head or self._prepositional(at + 1))
        return self._with_object(at, subject)

    def _with_object(self, at: int, subject: str | None) -> Root:
        lemma = _FORMS[self._word(at)][0]
        behind = self._skip(at + 1)
        if self._word(behind) in {"me", "us"}:
            behind = self._skip(behind + 1)
        noun = None if lemma in lexicon.LINKING else self._phrase(behind).head
        return Root(lemma, noun or subject or self._prepositional(behind))

    def _prepositional(self, at: int) -> str | None:
        """Return the noun behind the first preposition from here."""
        for place in range(at, len(self._tokens)):
            if self._word(place) in lexicon.PREPOSITIONS:
                if self._word(place) == "to" and "base" in self._kinds(place + 1):
                    continue  # "to determine"
                if head := self._phrase(place + 1).head:
                    return head
            elif self._word(place) in _PUNCTUATION:
                break
        return None

    def _only_participle(self) -> Root | None:
        """Return the verb of a caption such as "CT of the chest showing a mass"."""
        for at in range(1, len(self._tokens)):
            if self._kinds(at) & _PARTICIPLES and self._word(at) not in lexicon.ADJECTIVES:
                if "ing" in self._kinds(at):
                    return self._with_object(at, None)
                subject, _ = self._subject(self._skip(0))
                return Root(_FORMS[self._word(at)][0], subject)
        return None

    def _phrase(self, at: int) -> _Phrase:
        """Return the noun phrase that begins here, determiners and adjectives first."""
        head, start = None, at
        while at < len(self._tokens):
            word = self._word(at)
            if word in _PURE_PRONOUNS:
                return _Phrase(_in_singular(head), at + (head is None))
            if head is not None and (word in _JOINTS or self._ends_phrase(at)):
                break
            if word in _JOINTS:  # "small, round lesions"
                if at == start:
                    break
            elif self._is_no_noun(at) or self._is_verb_here(at, head):
                break
            elif word not in lexicon.DETERMINERS and self._is_noun(at):
                head = word
            at += 1
        return _Phrase(_in_singular(head), at)

    def _is_no_noun(self, at: int) -> bool:
        return self._word(at) in _NO_NOUNS

    def _ends_phrase(self, at: int) -> bool:
        word = self._word(at)
        if word in lexicon.ADVERBS or word in lexicon.DETERMINERS:
            return True
        is_adverb = word.endswith("ly") and word not in lexicon.NOUNS_LIKE_ADVERBS
        return is_adverb and not self._word(at + 1)

    def _is_verb_here(self, at: int, head: str | None) -> bool:
        """Whether a form of a verb ends the phrase: it has a noun already, and this is none."""
        kinds = self._kinds(at)
        if not kinds or self._word(at) in lexicon.ADJECTIVES:
            return False
        after = self._word(at + 1)
        if head is None:  # "this shows the lung", but "this result"
            is_behind_pointer = self._word(at - 1) in _POINTERS
            return is_behind_pointer and (
                after in lexicon.DETERMINERS or after in lexicon.PREPOSITIONS
            )
        is_ambiguous = self._word(at) in lexicon.AMBIGUOUS or "s" in kinds
        is_before_verb = after in lexicon.AUXILIARIES or bool(self._kinds(at + 1) & {"s", "past"})
        return not (is_ambiguous and is_before_verb)

    def _is_noun(self, at: int) -> bool:
        word = self._word(at)
        if word in lexicon.ADJECTIVES or word in lexicon.ADVERBS or word.isdigit():
            return False
        if word.endswith("ly") and word not in lexicon.NOUNS_LIKE_ADVERBS:
            return False
        if "-" in word and word.endswith(("ed", "ing")):
            return False
        kinds = self._kinds(at)
        if kinds & {"past", "participle"} and "base" not in kinds and word != "cut":
            return False
        return not word.endswith(lexicon.ADJECTIVE_ENDINGS)

    def _skip(self, at: int) -> int:
        """Return the next place that holds no adverb and no interjection."""
        while at < len(self._tokens) and (
            self._word(at) in _PASSED_OVER
            or (self._word(at) in {"no", ","} and at + 1 < len(self._tokens) and at == 0)
            or self._word(at).endswith("ly")
        ):
            at += 1
        return at

    def _word(self, at: int) -> str:
        return self._tokens[at] if 0 <= at < len(self._tokens) else ""

    def _kinds(self, at: int) -> frozenset[str]:
        return _FORMS.get(self._word(at), ("", frozenset[str]()))[1]


def _in_singular(noun: str | None) -> str | None:
    return None if noun is None else lexicon.singular(noun)
