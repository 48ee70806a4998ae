"""The words of many texts at once, as numbers: numpy is many times as fast as `split` and sets.

A word is a run of letters and digits without case; of what is no ASCII, all counts as letters.
Nothing depends on Python's own hashes, which differ from process to process. What does *not* live
here: what words are looked for (`standard_v1.py`), and whose are alike (`signatures.py`).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's
_FIRST_BYTES = 1 << 16
_TABLE_BITS = 18


class WordReader:
    """Makes hashes of words; keeps the powers and the room that it needs."""

    def __init__(self) -> None:
        inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
        self._bases = (BASE, inverse)
        self._make_room(_FIRST_BYTES)

    def read(self, texts: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Return the hashes of all words, and where each text's begin; one more is the end.

        Args:
            texts: UTF-8.
        """
        joined: npt.NDArray[np.uint8] = np.frombuffer(b"\n".join([b"", *texts, b""]), np.uint8)
        lengths = np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts))
        words, starts = self._words(joined)
        return words, np.searchsorted(starts, np.concatenate(([0], np.cumsum(lengths))))

    def _words(self, joined: npt.NDArray[np.uint8]) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Return the hashes of all words and where they start."""
        if len(joined) > len(self._values):
            self._make_room(2 * len(joined))
        up, down = self._powers
        # Into the same room each time, and with a mode that asks for no copy: a fifth of the time.
        values = np.take(_LETTERS, joined, out=self._values[: len(joined)], mode="clip")
        is_letter = values != 0
        starts = np.flatnonzero(is_letter[1:] > is_letter[:-1]) + 1  # the first byte is none
        values *= up[: len(joined)]
        # What parts words counts as 0, so a word's sum may go on to where the next one starts.
        return mixed(np.add.reduceat(values, starts) * down[starts]), starts

    def _make_room(self, num_bytes: int) -> None:
        self._powers = [_powers_of(base, num_bytes) for base in self._bases]
        self._values: Hashes = np.empty(num_bytes, np.uint64)


class WordTable:
    """Says which texts may have some words; one in a thousand others is taken for one.

    Args:
        words: in lower case.
    """

    def __init__(self, words: Iterable[str], reader: WordReader) -> None:
        hashes, _ = reader.read([word.encode() for word in words])
        self._has: npt.NDArray[np.bool_] = np.zeros(1 << _TABLE_BITS, bool)
        self._has[_places(hashes)] = True

    def has_any(self, words: Hashes, first: npt.NDArray[np.int64]) -> list[bool]:
        """Return of each text whether it may have one, given what a reader made of it."""
        found = np.flatnonzero(self._has.take(_places(words)))
        return np.diff(np.searchsorted(found, first)).astype(bool).tolist()


def mixed(hashes: Hashes) -> Hashes:
    """Return hashes whose bits all depend on all bits."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * _MIX[0]
    return (hashes ^ (hashes >> np.uint64(29))) * _MIX[1]


def _places(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).view(np.int64)


def _powers_of(base: np.uint64, count: int) -> Hashes:
    return np.cumprod(np.full(max(count, 1), base, np.uint64))


def _letter_values() -> Hashes:
    """Return a value for each byte: 0 for what parts words, the same for both cases."""
    values = np.zeros(256, np.uint64)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            values[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return mixed(values) | (values != 0).astype(np.uint64)


_LETTERS = _letter_values()
