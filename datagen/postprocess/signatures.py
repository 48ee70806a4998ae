"""MinHash signatures of many texts at once: words by numpy, the hashes' minima by rensa.

Texts are alike as their sets of three words in a row are (Broder, 1997, doi:10.1109/SEQUEN.1997.
666900); case and punctuation do not count. What does *not* live here: reading words (`words.py`),
and who is a near-duplicate (`near_duplicates.py`).
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import rensa  # pyright: ignore[reportMissingTypeStubs] - it has none

from datagen.postprocess.words import BASE, Hashes, WordReader, mixed

NUM_HASHES = 128
NUM_BANDS = 16
"""Of 8 hashes each: texts that are 85% alike share a band with a probability of 99.4%."""
SHORT_WORDS = 30
"""Shorter texts count as alike for the same image only: "CT." answers many."""

Signatures = npt.NDArray[np.uint32]

_MINHASH_SEED = 42
_STEPS = np.array([0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB], np.uint64)


class Signer:
    """Makes signatures."""

    def __init__(self) -> None:
        self._reader = WordReader()

    def sign(self, texts: Sequence[bytes | Hashes], images: Sequence[bytes]) -> Signatures:
        """Return a row of 32-bit hashes for each text; all zeros where it has under three words.

        Args:
            texts: UTF-8, or the words of one that was read.
            images: what short texts count together with.
        """
        unread = [text for text in texts if isinstance(text, bytes)]
        words, first = self._reader.read(unread)
        if len(unread) < len(texts):
            ends = iter(first.tolist())
            start, parts = next(ends), list[Hashes]()
            for text in texts:
                if isinstance(text, bytes):
                    end = next(ends)
                    parts.append(words[start:end])
                    start = end
                else:
                    parts.append(text)
            words = np.concatenate(parts)
            first = np.cumsum([0, *[len(part) for part in parts]])
        return self._sign(words, np.diff(first), images)

    def _sign(
        self, words: Hashes, num_words: npt.NDArray[np.int64], images: Sequence[bytes]
    ) -> Signatures:
        shingles = _shingles(words)
        number = np.repeat(np.arange(len(images)), num_words)
        is_whole = number[2:] == number[:-2] if len(words) > 2 else np.zeros(0, bool)
        number = number[: len(is_whole)][is_whole]
        salts = self._salts(images, num_words)
        shingles = shingles[is_whole] ^ salts[number]
        ends = np.searchsorted(number, np.arange(len(images) + 1)).astype(np.uint64)
        make = cast("Any", rensa).RMinHash.digest_matrix_from_flat_token_hashes
        rows = make(np.ascontiguousarray(shingles), ends, NUM_HASHES, _MINHASH_SEED).to_rows()
        # Through `array` a list becomes numbers in a third of the time that numpy takes.
        found = bytearray().join([array("I", row) for row in rows])
        signatures = np.frombuffer(found, np.uint32).reshape(len(images), NUM_HASHES)
        signatures[num_words < 3] = 0
        return signatures

    def _salts(self, images: Sequence[bytes], num_words: npt.NDArray[np.int64]) -> Hashes:
        salts = np.zeros(len(images), np.uint64)
        short: list[int] = np.flatnonzero(num_words < SHORT_WORDS).tolist()
        for index in short:
            salts[index] = int.from_bytes(blake2b(images[index], digest_size=8).digest(), "little")
        return salts


def band_keys(signatures: Signatures) -> Hashes:
    """Return a key for each band of each row; rows of zeros, which are like none, have zeros."""
    halves = signatures.reshape(len(signatures), NUM_BANDS, -1).view(np.uint64)
    keys = np.zeros((len(signatures), NUM_BANDS), np.uint64)
    for index in range(halves.shape[2]):
        keys = mixed(keys * BASE + halves[:, :, index] + np.uint64(1))
    keys |= np.uint64(1)
    keys[~signatures.any(axis=1)] = 0
    return keys


def likeness(signatures: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard index of each row with one other."""
    return (signatures == other).mean(axis=1)


def _shingles(words: Hashes) -> Hashes:
    if len(words) < 3:
        return np.zeros(0, np.uint64)
    return mixed(words[:-2] * _STEPS[0] + words[1:-1] * _STEPS[1] + words[2:] * _STEPS[2])
