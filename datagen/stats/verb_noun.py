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

from datagen.stats import lexicon as words

MOST_CHARS = 4_000
"""Of a text: what is behind is not read."""
_SENTENCE = re.compile(r"[^.?!\n]+(?:\.(?=\w)[^.?!\n]*)*[.?!]?")
_TOKEN = re.compile(r"n't|[a-z0-9]+(?:[-'/][a-z0-9]+)*|[,;:()]")
_CONTRACTED = (("can't", "can not"), ("won't", "will not"), ("n't", " not"))
_CLITICS = (("what's", "what is"), ("it's", "it is"), ("there's", "there is"), ("i'm", "i am"))
_PUNCTUATION = frozenset(",;:()")
_LEAD_INS = words.PREPOSITIONS | frozenset(
    ("given", "looking", "considering", "according", "if", "when", "while", "because", "although")
)
_FORMS = words.verb_forms()
_PARTICIPLES = frozenset({"participle", "ing"})
_NON_FINITE_ONLY = frozenset({"participle"})
_NOT_IN_NOUNS = words.PREPOSITIONS | words.CONJUNCTIONS | words.AUXILIARIES | _PUNCTUATION


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
    if len(tokens) > 1 and tokens[0] in words.ADVERBS and tokens[1] == ",":
        tokens = tokens[2:]
    if len(tokens) < 3 or tokens[0] not in _LEAD_INS or "," not in tokens:
        return tokens
    if tokens[1] in words.QUESTION_WORDS:  # "In which part, ..." asks
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
            token = self._tokens[at]
            if token in words.AUXILIARIES:
                return self._behind_auxiliary(at, subject)
            if self._is_finite(at):
                return self._with_object(at, subject)
            at += 1
        return self._only_participle()

    def _is_imperative(self, at: int) -> bool:
        kinds = self._kinds(at)
        if "base" not in kinds or self._token(at) in words.AUXILIARIES:
            return False
        after = self._token(at + 1)
        if self._token(at) in words.AMBIGUOUS:
            return after not in words.AUXILIARIES and not self._kinds(at + 1) & {"s", "past"}
        return after not in words.AUXILIARIES

    def _subject(self, start: int) -> tuple[str | None, int]:
        """Return the first noun phrase's head and the place behind it."""
        at = start
        if self._token(at) in words.PREPOSITIONS and self._token(at + 1) in words.QUESTION_WORDS:
            phrase = self._phrase(at + 1)  # "On which side are the lesions?": a place, no subject
            return None, phrase.end
        if self._token(at) == "how":
            at += 1
        phrase = self._phrase(at)
        return phrase.head, phrase.end

    def _is_finite(self, at: int) -> bool:
        """Whether a verb stands here that may be the sentence's: no reduced relative clause."""
        kinds = self._kinds(at)
        if not kinds or kinds == {"ing"} or kinds == _NON_FINITE_ONLY:
            return False
        before = self._token(at - 1)
        if before not in _POINTERS and (before in words.DETERMINERS | words.PREPOSITIONS):
            return False
        if "past" in kinds and "base" not in kinds:
            later = self._tokens[at + 1 :]
            is_reduced = self._token(at + 1) in words.PREPOSITIONS
            return not (is_reduced and any(token in words.AUXILIARIES for token in later))
        return True

    def _behind_auxiliary(self, at: int, subject: str | None) -> Root:
        """Return the root of a clause whose first auxiliary is here."""
        asked = self._token(0)
        last = self._token(at)
        at = self._skip(at + 1)
        is_inverted = self._is_question
        while True:
            token = self._token(at)
            if token in words.AUXILIARIES and self._goes_on(last, token):
                last, at = token, self._skip(at + 1)
            elif self._is_main(last, at):
                return self._main(last, at, subject)
            elif is_inverted:
                is_inverted = False
                is_there = token == "there"
                phrase = self._phrase(at + is_there)
                at = self._skip(phrase.end)
                is_what = asked in {"what", "who"} and last in words.BE
                if self._is_main(last, at) and not is_there:
                    if not (is_what and "ing" not in self._kinds(at) and phrase.head):
                        return self._main(last, at, phrase.head or subject)
                elif is_there:
                    return Root("be", phrase.head or subject)
                elif self._token(at) in words.AUXILIARIES:
                    subject = phrase.head or subject
                    continue
                return self._verbless(last, phrase.head, subject, at)
            else:
                phrase = self._phrase(at)
                return self._verbless(last, phrase.head, subject, phrase.end)

    def _verbless(self, last: str, noun: str | None, subject: str | None, at: int) -> Root:
        """Return a copula with its complement, or `have` with its object."""
        if last in words.HAVE:
            return Root("have", noun or subject or self._prepositional(at))
        if last in words.BE:
            is_copula_of_question = self._is_question and subject is not None
            return Root("be", (subject if is_copula_of_question else noun) or noun or subject)
        return Root("do" if last in words.DO else "be", noun or subject)

    @staticmethod
    def _goes_on(last: str, token: str) -> bool:
        if last in words.MODALS:
            return token in {"be", "have"}
        if last in words.HAVE:
            return token == "been"
        if last in words.DO:
            return token == "have"
        return token == "being"

    def _is_main(self, last: str, at: int) -> bool:
        """Whether the main verb stands here, in the form that the auxiliary asks for."""
        kinds = self._kinds(at)
        if last in words.BE:
            is_adjective = self._token(at) in words.ADJECTIVES or self._token(at) == "present"
            return bool(kinds & _PARTICIPLES) and not is_adjective and not self._is_premodifier(at)
        if last in words.HAVE:
            return "participle" in kinds and not self._is_premodifier(at)
        return "base" in kinds and not (
            self._token(at) in words.AMBIGUOUS and self._token(at - 1) in words.DETERMINERS
        )

    def _is_premodifier(self, at: int) -> bool:
        """Whether "increased density" stands here, and no verb."""
        after = self._token(at + 1)
        is_noun = bool(after) and after not in _NOT_IN_NOUNS and after not in words.DETERMINERS
        is_noun = is_noun and after not in words.ADVERBS and after not in words.PRONOUNS
        return is_noun and "ing" not in self._kinds(at) and not after.endswith("ly")

    def _main(self, last: str, at: int, subject: str | None) -> Root:
        is_passive = last in words.BE and "participle" in self._kinds(at)
        if is_passive:
            lemma = _FORMS[self._token(at)][0]
            return Root(lemma, subject or self._phrase(at + 1).head or self._prepositional(at + 1))
        return self._with_object(at, subject)

    def _with_object(self, at: int, subject: str | None) -> Root:
        lemma = _FORMS[self._token(at)][0]
        behind = self._skip(at + 1)
        if self._token(behind) in {"me", "us"}:
            behind = self._skip(behind + 1)
        noun = None if lemma in words.LINKING else self._phrase(behind).head
        return Root(lemma, noun or subject or self._prepositional(behind))

    def _prepositional(self, at: int) -> str | None:
        """Return the noun behind the first preposition from here."""
        for place in range(at, len(self._tokens)):
            if self._token(place) in words.PREPOSITIONS:
                if head := self._phrase(place + 1).head:
                    return head
            elif self._token(place) in _PUNCTUATION:
                break
        return None

    def _only_participle(self) -> Root | None:
        """Return the verb of a caption such as "CT of the chest showing a mass"."""
        for at in range(1, len(self._tokens)):
            if self._kinds(at) & _PARTICIPLES and self._token(at) not in words.ADJECTIVES:
                if "ing" in self._kinds(at):
                    return self._with_object(at, None)
                subject, _ = self._subject(self._skip(0))
                return Root(_FORMS[self._token(at)][0], subject)
        return None

    def _phrase(self, at: int) -> _Phrase:
        """Return the noun phrase that begins here, determiners and adjectives first."""
        head, start = None, at
        while at < len(self._tokens):
            token = self._token(at)
            if token in words.DETERMINERS:
                if head is not None:
                    break
            elif token in words.PRONOUNS:
                return _Phrase(_in_singular(head), at + (head is None))
            elif token in {",", "and", "or"}:
                if head is not None or at == start:
                    break
            elif token in _NOT_IN_NOUNS or (head is not None and self._ends_phrase(at)):
                break
            elif self._is_verb_here(at, head):
                break
            elif self._is_noun(at):
                head = token
            at += 1
        return _Phrase(_in_singular(head), at)

    def _ends_phrase(self, at: int) -> bool:
        token = self._token(at)
        if token in words.ADVERBS:
            return True
        is_adverb = token.endswith("ly") and token not in words.NOUNS_LIKE_ADVERBS
        return is_adverb and not self._token(at + 1)

    def _is_verb_here(self, at: int, head: str | None) -> bool:
        """Whether a form of a verb ends the phrase: it has a noun already, and this is none."""
        kinds = self._kinds(at)
        if not kinds or self._token(at) in words.ADJECTIVES:
            return False
        after = self._token(at + 1)
        if head is None:  # "this shows the lung", but "this result"
            is_behind_pointer = self._token(at - 1) in _POINTERS
            return is_behind_pointer and (after in words.DETERMINERS or after in words.PREPOSITIONS)
        is_ambiguous = self._token(at) in words.AMBIGUOUS or "s" in kinds
        is_before_verb = after in words.AUXILIARIES or bool(self._kinds(at + 1) & {"s", "past"})
        return not (is_ambiguous and is_before_verb)

    def _is_noun(self, at: int) -> bool:
        token = self._token(at)
        if token in words.ADJECTIVES or token in words.ADVERBS or token.isdigit():
            return False
        if token.endswith("ly") and token not in words.NOUNS_LIKE_ADVERBS:
            return False
        if "-" in token and token.endswith(("ed", "ing")):
            return False
        kinds = self._kinds(at)
        if kinds & {"past", "participle"} and "base" not in kinds and token != "cut":
            return False
        return not token.endswith(words.ADJECTIVE_ENDINGS)

    def _skip(self, at: int) -> int:
        """Return the next place that holds no adverb and no interjection."""
        while at < len(self._tokens) and (
            self._token(at) in words.ADVERBS - {"there", "no", "more", "most", "about"}
            or (self._token(at) in {"no", ","} and at + 1 < len(self._tokens) and at == 0)
            or self._token(at).endswith("ly")
        ):
            at += 1
        return at

    def _token(self, at: int) -> str:
        return self._tokens[at] if 0 <= at < len(self._tokens) else ""

    def _kinds(self, at: int) -> frozenset[str]:
        return _FORMS.get(self._token(at), ("", frozenset[str]()))[1]


def _in_singular(noun: str | None) -> str | None:
    return None if noun is None else words.singular(noun)
