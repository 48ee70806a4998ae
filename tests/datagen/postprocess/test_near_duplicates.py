"""Texts that are nearly the same are found and named; others stay; parts change nothing."""

import random
from pathlib import Path

import numpy as np
import pytest

from datagen.postprocess.columns import ColumnWriter
from datagen.postprocess.near_duplicates import Fates, drop_near_duplicates
from datagen.postprocess.signatures import Signer, band_keys, likeness

WORDS = [f"word{number}" for number in range(800)]


def texts(count: int, num_words: int = 150) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=num_words)) for _ in range(count)]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return set(zip(words, words[1:], words[2:], strict=False))


def fates_of(folder: Path, written: list[str], images: list[str], **options) -> Fates:
    signatures = Signer().sign([t.encode() for t in written], [i.encode() for i in images])
    with ColumnWriter(folder) as columns:
        columns.append(id=np.arange(len(written), dtype=np.uint64))
        columns.append_signatures(signatures, band_keys(signatures))
    fates = Fates(folder, len(written))
    drop_near_duplicates(folder, fates, 0.85, lambda: None, **options)
    return fates


def test_the_estimate_is_near_the_true_jaccard_index() -> None:
    [text] = texts(1, 400)
    words = text.split()
    for num_changed in (0, 4, 12, 40):
        other = " ".join([*words[num_changed:], *(f"new{n}" for n in range(num_changed))])
        true = len(shingles(text) & shingles(other)) / len(shingles(text) | shingles(other))
        signatures = Signer().sign([text.encode(), other.encode()], [b"", b""])

        assert likeness(signatures[:1], signatures[1])[0] == pytest.approx(true, abs=0.13)


def test_case_and_punctuation_do_not_count() -> None:
    signatures = Signer().sign(
        [b"One two, three four five", b"one TWO three; four (five)"], [b""] * 2
    )

    assert (signatures[0] == signatures[1]).all()


def test_the_place_in_a_batch_does_not_count() -> None:
    written = [text.encode() for text in texts(50)]
    together = Signer().sign(written, [b"a.jpg"] * 50)
    alone = [Signer().sign([text], [b"a.jpg"])[0] for text in written]

    assert (together == np.array(alone)).all()


def test_a_near_duplicate_is_dropped_and_names_the_first(tmp_path: Path) -> None:
    written = texts(20)
    near = written[3].replace(written[3].split()[70], "other", 1)
    fates = fates_of(tmp_path, [*written, near, near.upper()], ["x.jpg"] * 22)

    assert np.flatnonzero(fates.reason).tolist() == [20, 21]
    assert [fates.kept_row(row) for row in (20, 21)] == [3, 3]


def test_parts_that_fit_into_memory_give_the_same(tmp_path: Path) -> None:
    written = texts(300)
    written += [written[number].replace(" ", " so ", 1) for number in range(0, 300, 7)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    images = ["x.jpg"] * len(written)

    whole = fates_of(tmp_path / "a", written, images)
    parted = fates_of(tmp_path / "b", written, images, most_rows=16)

    assert np.flatnonzero(whole.reason).tolist() == list(range(300, len(written)))
    assert (whole.reason == parted.reason).all()
    assert (whole.repeats[300:] == parted.repeats[300:]).all()


def test_short_answers_about_other_images_are_no_duplicates(tmp_path: Path) -> None:
    fates = fates_of(tmp_path, ["What modality is it? CT."] * 3, ["a.jpg", "b.jpg", "a.jpg"])

    assert fates.reason.tolist() == [0, 0, 3]


def test_texts_of_two_words_are_like_none(tmp_path: Path) -> None:
    fates = fates_of(tmp_path, ["two words", "two words", ""], ["a.jpg"] * 3)

    assert fates.reason.tolist() == [0, 0, 0]
