"""Samples that are looked over together end as those that are not; no hint is overlooked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.postprocess import phrases, safe_wording
from datagen.postprocess.samples import Item, Rejected, Sample, sample_of
from datagen.postprocess.signatures import Signer
from datagen.postprocess.standard_v1 import StandardV1
from datagen.postprocess.words import WordReader, WordTable

HINTS = sorted(phrases.WORDS | safe_wording.WORDS)
PIECES = st.sampled_from(
    [
        "the", "image", "can", "not", "visible", "see", "MRI", "T2", "is", "mass", ". ", ",", "\n",
        "can not", "can't see the image", "\u2019", "\u00a0", "\u00b5m", "\u212a", "\x1c",
        "you should take it", "Sorry", "According to the caption, ", "as mentioned in the text",
        "12/03/2019", "MRN: 1234", "Dr. Smith", "a.b@c.org", "x=1", "123", "1.5", "", "<image>",
        *HINTS,
    ]
)  # fmt: skip
TEXTS = st.builds(
    lambda pieces, glue: glue.join(pieces),
    st.lists(PIECES, max_size=8),
    st.sampled_from([" ", " ", "", "-", "_"]),
)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)


def record(pairs: list[tuple[str, str]]) -> dict:
    return {"pair_id": "1", "turns": [{"question": q, "answer": a} for q, a in pairs]}


def outcome(profile: StandardV1, sample: Sample) -> tuple[Item | str, list[object]]:
    notes: list[object] = []
    try:
        return profile.item_of(sample, lambda *note: notes.append(note)), notes
    except Rejected as reason:
        return str(reason), notes


@given(st.lists(PAIRS, max_size=5))
def test_samples_that_are_looked_over_end_as_those_that_are_not(
    written: list[list[tuple[str, str]]],
) -> None:
    profile = StandardV1(0)
    together = [sample_of(record(pairs)) for pairs in written]
    profile.look_over(together)

    for pairs, sample in zip(written, together, strict=True):
        assert outcome(profile, sample) == outcome(profile, sample_of(record(pairs)))


@pytest.mark.parametrize("hint", HINTS)
def test_a_hint_is_never_overlooked(hint: str) -> None:
    sample = sample_of(record([("What?", f"One-{hint.upper()}.")]))
    StandardV1(0).look_over([sample])

    assert sample.plain_words is None


def test_most_texts_without_a_hint_are_plain() -> None:
    samples = [
        sample_of(record([("What is it?", f"Mass {chr(97 + n // 26)}q{chr(97 + n % 26)}.")]))
        for n in range(500)
    ]
    StandardV1(0).look_over(samples)

    assert sum(sample.plain_words is not None for sample in samples) > 400


@given(st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=6))
def test_signatures_of_words_are_those_of_their_text(texts: list[tuple[str, bool]]) -> None:
    written = [text.encode() for text, _ in texts]
    words, first = WordReader().read(written)
    mixed = [
        words[first[n] : first[n + 1]] if is_read else written[n]
        for n, (_, is_read) in enumerate(texts)
    ]
    images = [b"a.jpg"] * len(texts)

    assert np.array_equal(Signer().sign(mixed, images), Signer().sign(written, images))


def test_a_word_is_found_in_its_text_alone_and_whatever_its_case() -> None:
    reader = WordReader()
    table = WordTable(["caption"], reader)
    read = reader.read([b"a lung", b"the CAPTION, here", b"", b"captions of caption_s"])

    assert table.has_any(*read) == [False, True, False, True]
