"""MinHash signatures of many texts at once: words by numpy, the hashes' minima by rensa.

Texts are alike as their sets of three words in a row are (Broder, 1997, doi:10.1109/SEQUEN.1997.
666900); case and punctuation do not count. Nothing depends on Python's own hashes, which differ
from process to process. What does *not* live here: who is a near-duplicate (`near_duplicates.py`).
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import rensa  # pyright: ignore[reportMissingTypeStubs] - it has none

NUM_HASHES = 128
NUM_BANDS = 16
"""Of 8 hashes each: texts that are 85% alike share a band with a probability of 99.4%."""
SHORT_WORDS = 30
"""Shorter texts count as alike for the same image only: "CT." answers many."""

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]

_MINHASH_SEED = 42
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's
_STEPS = np.array([0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB], np.uint64)
_FIRST_POWERS = 1 << 16


class Signer:
    """Makes signatures; keeps the powers that hashing words needs."""

    def __init__(self) -> None:
        inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
        self._bases = (_BASE, inverse)
        self._powers = [_powers_of(base, _FIRST_POWERS) for base in self._bases]

    def sign(self, texts: Sequence[bytes], images: Sequence[bytes]) -> Signatures:
        """Return a row of 32-bit hashes for each text; all zeros where it has under three words.

        Args:
            texts: UTF-8.
            images: what short texts count together with.
        """
        joined: npt.NDArray[np.uint8] = np.frombuffer(b"\n".join([b"", *texts, b""]), np.uint8)
        lengths = np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts))
        words, starts = self._words(joined)
        texts_ends = np.cumsum(lengths)
        first = np.searchsorted(starts, np.concatenate(([0], texts_ends)))
        num_words = np.diff(first)
        shingles = _shingles(words)
        number = np.repeat(np.arange(len(texts)), num_words)
        is_whole = number[2:] == number[:-2] if len(words) > 2 else np.zeros(0, bool)
        number = number[: len(is_whole)][is_whole]
        salts = self._salts(images, num_words)
        shingles = shingles[is_whole] ^ salts[number]
        ends = np.searchsorted(number, np.arange(len(texts) + 1)).astype(np.uint64)
        make = cast("Any", rensa).RMinHash.digest_matrix_from_flat_token_hashes
        rows = make(np.ascontiguousarray(shingles), ends, NUM_HASHES, _MINHASH_SEED).to_rows()
        signatures = np.array(rows, np.uint32).reshape(len(texts), NUM_HASHES)
        signatures[num_words < 3] = 0
        return signatures

    def _words(self, joined: npt.NDArray[np.uint8]) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Return the hashes of all words and where they start."""
        if len(joined) > len(self._powers[0]):
            self._powers = [_powers_of(base, 2 * len(joined)) for base in self._bases]
        up, down = self._powers
        values: Hashes = _LETTERS[joined]
        edges: npt.NDArray[np.int8] = np.diff(
            (values != 0).view(np.int8)
        )  # the first and the last byte are no letters
        starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
        sums = np.zeros(len(joined) + 1, np.uint64)
        np.cumsum(values * up[: len(joined)], out=sums[1:])
        return _mixed((sums[ends] - sums[starts]) * down[starts]), starts

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
        keys = _mixed(keys * _BASE + halves[:, :, index] + np.uint64(1))
    keys |= np.uint64(1)
    keys[~signatures.any(axis=1)] = 0
    return keys


def likeness(signatures: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard index of each row with one other."""
    return (signatures == other).mean(axis=1)


def _shingles(words: Hashes) -> Hashes:
    if len(words) < 3:
        return np.zeros(0, np.uint64)
    return _mixed(words[:-2] * _STEPS[0] + words[1:-1] * _STEPS[1] + words[2:] * _STEPS[2])


def _mixed(hashes: Hashes) -> Hashes:
    hashes = (hashes ^ (hashes >> np.uint64(32))) * _MIX[0]
    return (hashes ^ (hashes >> np.uint64(29))) * _MIX[1]


def _powers_of(base: np.uint64, count: int) -> Hashes:
    return np.cumprod(np.full(max(count, 1), base, np.uint64))


def _letter_values() -> Hashes:
    """Return a value for each byte: 0 for what parts words, the same for both cases."""
    values = np.zeros(256, np.uint64)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            values[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return _mixed(values) | (values != 0).astype(np.uint64)


_LETTERS = _letter_values()
