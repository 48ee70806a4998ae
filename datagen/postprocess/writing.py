"""The output, whole or not at all: items without those that repeat others, rejects, the manifest.

The output itself is put in its place as the last step, so where it is, all of it is. What does
*not* live here: deciding (`running.py`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from datagen.postprocess.columns import Column
from datagen.postprocess.near_duplicates import REASONS, Fates
from datagen.postprocess.samples import Item
from datagen.postprocess.tally import Reject, RejectFile
from modeling.durable_files import sync_to_disk, write_json

ITEMS = "items"
REJECTS = "rejects"
"""Files in the folder of a run: accepted items, and what was left out."""
_OUTPUT = "output"
_CHUNK = 1024
_BUFFER_BYTES = 1 << 18
_decode = msgspec.json.Decoder(Item).decode


@dataclass(frozen=True, slots=True)
class Accepted:
    """Items with what was found about them.

    Args:
        names: of the inputs.
    """

    folder: Path
    fates: Fates
    names: Sequence[str]


def write_items(
    out: Path, accepted: Accepted, rejects: RejectFile, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Write what stays, not yet in its place; returns what the manifest says of it."""
    unfinished = accepted.folder / _OUTPUT
    with unfinished.open("wb") as file:
        output = _Output(file, is_list=out.suffix != ".jsonl")
        waiting: list[bytes] = []
        for row, line in _lines(accepted, rejects):
            if line is not None:
                waiting.append(line)
            if (row + 1) % _CHUNK == 0:
                output.write(waiting)
                waiting.clear()
                advance(_CHUNK)
        output.write(waiting)
        output.close()
    sync_to_disk(unfinished)
    return {"name": out.name, "bytes": output.num_bytes, "sha256": output.digest.hexdigest()}


def put_in_place(out: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put rejects and manifest beside the output, then the output in its place."""
    sync_to_disk(folder / REJECTS)
    (folder / REJECTS).replace(out.with_name(f"{out.name}.rejects.jsonl"))
    write_json(out.with_name(f"{out.name}.manifest.json"), manifest)
    (folder / _OUTPUT).replace(out)
    sync_to_disk(out.parent)


def _lines(accepted: Accepted, rejects: RejectFile) -> Iterator[tuple[int, bytes | None]]:
    """Yield rows with their lines; those that are left out are told of, and have None."""
    folder, fates = accepted.folder, accepted.fates
    numbers, sources = Column(folder, "number").values(), Column(folder, "source").values()
    with (folder / ITEMS).open("rb", _BUFFER_BYTES) as items, (folder / ITEMS).open("rb") as others:
        rows = zip(items, numbers, sources, strict=True)
        for row, (line, number, source) in enumerate(rows):
            if not fates.reason[row]:
                yield row, line[:-1]
                continue
            item = _decode(line)
            rejects.tally.count(item, -1)
            start = Column(folder, "start").rows(np.array([fates.kept_row(row)]))
            others.seek(int(start[0]))
            rejects.sample(
                Reject(
                    file=accepted.names[source],
                    number=number,
                    reason=REASONS[int(fates.reason[row])],
                    id=item.id,
                    repeats=_decode(others.readline()).id,
                )
            )
            yield row, None


class _Output:
    """A file in the form in which training reads it, one item on a line."""

    def __init__(self, file: BinaryIO, *, is_list: bool) -> None:
        self._file = file
        self._is_list = is_list
        self._has_items = False
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        if self._is_list:
            begin = b",\n" if self._has_items else b"[\n"
            self._add(begin + b",\n".join(lines))
        else:
            self._add(b"\n".join(lines) + b"\n")
        self._has_items = True

    def close(self) -> None:
        if self._is_list:
            self._add(b"\n]\n" if self._has_items else b"[]\n")
        self._file.flush()

    def _add(self, content: bytes) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.num_bytes += len(content)
