"""Which accepted items repeat an earlier one: its id, or nearly its words.

Rows of equal keys are brought together part by part, never all at once, so memory is bounded by
`MOST_ROWS` and not by the file. What does *not* live here: making signatures (`signatures.py`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.postprocess.columns import Column, signature_rows
from datagen.postprocess.signatures import NUM_BANDS, likeness

MOST_ROWS = 1 << 20
"""Rows in memory at once: 16 bytes each, and as much for sorting."""
_MOST_FIRSTS = 32
"""Different texts with which those of one band's key are compared; other bands find the rest."""
_ROWS_AT_ONCE = 4096

REASONS = ("", "repeated_item", "duplicate_id", "near_duplicate")
"""What becomes of a row; its number stands in `Fates.reason`."""
_REPEATED, _SAME_ID, _NEAR = 1, 2, 3

Rows = npt.NDArray[np.int64]


class Fates:
    """Of each row, why it is left out and which one it repeats; in files that are mapped.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path, num_rows: int) -> None:
        shape = (max(num_rows, 1),)
        self.num_rows = num_rows
        self.reason: npt.NDArray[np.uint8] = np.memmap(
            folder / "reason", np.uint8, "w+", shape=shape
        )
        self.repeats: npt.NDArray[np.int64] = np.memmap(
            folder / "repeats", np.int64, "w+", shape=shape
        )

    def drop(self, rows: Rows, first: int, reason: int) -> None:
        """Leave rows out as repetitions of a first one."""
        self.reason[rows] = reason
        self.repeats[rows] = first

    def kept_row(self, row: int) -> int:
        """Return the row that a row repeats and that stays."""
        while self.reason[row]:
            row = int(self.repeats[row])
        return row


def drop_repeated_ids(folder: Path, fates: Fates, most_rows: int = MOST_ROWS) -> None:
    """Keep the first of each id; a copy and another item of the same id are told apart."""
    contents = Column(folder, "content")

    def compare(rows: Rows) -> None:
        content = contents.rows(rows)
        is_copy = content[1:] == content[0]
        fates.drop(rows[1:][is_copy], int(rows[0]), _REPEATED)
        fates.drop(rows[1:][~is_copy], int(rows[0]), _SAME_ID)

    for rows in _equal_rows(Column(folder, "id"), fates, most_rows):
        compare(rows)


def drop_near_duplicates(
    folder: Path,
    fates: Fates,
    threshold: float,
    advance: Callable[[], None],
    most_rows: int = MOST_ROWS,
) -> None:
    """Keep the first of texts that are alike.

    Args:
        threshold: of the estimated Jaccard index.
        advance: is called behind each of the bands.
    """
    for band in range(NUM_BANDS):
        for rows in _equal_rows(Column(folder, f"band{band}"), fates, most_rows):
            _compare_texts(folder, rows, fates, threshold)
        advance()


def _compare_texts(folder: Path, rows: Rows, fates: Fates, threshold: float) -> None:
    left = rows
    for _ in range(_MOST_FIRSTS):
        if len(left) < 2:
            return
        first = signature_rows(folder, left[:1])[0]
        others: list[Rows] = []
        for start in range(1, len(left), _ROWS_AT_ONCE):
            some = left[start : start + _ROWS_AT_ONCE]
            is_like = likeness(signature_rows(folder, some), first) >= threshold
            fates.drop(some[is_like], int(left[0]), _NEAR)
            others.append(some[~is_like])
        left = np.concatenate(others)


def _equal_rows(column: Column, fates: Fates, most_rows: int) -> Iterator[Rows]:
    """Yield rows that have a key in common, in their order; what was dropped takes no part."""
    num_parts = -(-max(fates.num_rows, 1) // most_rows)
    for part in range(num_parts):
        keys, rows = _part(column, fates, part, num_parts)
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True])))
        for index in np.flatnonzero(np.diff(edges) > 1).tolist():
            group = rows[edges[index] : edges[index + 1]]
            group = group[fates.reason[group] == 0]
            if len(group) > 1:
                yield group


def _part(
    column: Column, fates: Fates, part: int, num_parts: int
) -> tuple[npt.NDArray[np.uint64], Rows]:
    found: list[tuple[npt.NDArray[np.uint64], Rows]] = []
    for first, keys in column.chunks():
        is_mine = (keys != 0) & (fates.reason[first : first + len(keys)] == 0)
        if num_parts > 1:  # the low bit of a key is always set
            is_mine &= (keys >> np.uint64(20)) % np.uint64(num_parts) == part
        rows = np.flatnonzero(is_mine)
        found.append((keys[rows], rows + first))
    if not found:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate([keys for keys, _ in found]), np.concatenate([r for _, r in found])
