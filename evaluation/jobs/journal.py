"""Results of a shard on the disk, many with one sync.

What does *not* live here: the file's form (`services.endpoint_client.record_file`).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from services.endpoint_client.record_file import RecordFile
from services.store.job_records import Counts


class Journal:
    """Takes results from many tasks; `run` writes them.

    Args:
        file: open; its records have the fields `line`, `is_good` and `row`.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self._queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        good = sum(bool(record["is_good"]) for record in file.records.values())
        self._counts = Counts(good, len(file.records) - good)

    @property
    def counts(self) -> Counts:
        """Of the lines that are on the disk."""
        return self._counts

    def has(self, number: int) -> bool:
        """Whether a line has its result."""
        return str(number) in self._file.records

    def add(self, number: int, row: Mapping[str, Any], *, is_good: bool) -> None:
        """Let a result be written."""
        self._queue.put_nowait({"line": number, "is_good": is_good, "row": row})

    async def run(self) -> None:
        """Write until `close`; raises OSError where the disk takes nothing more."""
        is_closed = False
        while not is_closed:
            found = [await self._queue.get()]
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            is_closed = None in found
            records = [record for record in found if record is not None]
            await asyncio.to_thread(self._file.add_all, records)
            good = sum(record["is_good"] for record in records)
            before = self._counts
            self._counts = Counts(before.completed + good, before.failed + len(records) - good)

    def close(self) -> None:
        """Let `run` end when all is written."""
        self._queue.put_nowait(None)
