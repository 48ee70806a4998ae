"""Results of shards in the file store: written by one worker, read by the next or by the end.

Each attempt has a key of its own, so that a worker that lost its shard overwrites nothing.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.store.file_store import FileStore
from services.store.models import ShardRow


def part_key(shard: ShardRow) -> str:
    """Return where the results of the present attempt go."""
    return f"{job_folder(shard.job_id)}/parts/{shard.number}-{shard.attempt}.jsonl"


def job_folder(job_id: str) -> str:
    """Return the folder of what a job needs only until it ends."""
    return f"jobs/{job_id}"


def put_part(store: FileStore, key: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Write results; raises as `FileStore.writer`."""
    with store.writer(key) as out:
        for record in records:
            out.write(json.dumps(record).encode() + b"\n")


def read_part(store: FileStore, key: str) -> dict[int, Mapping[str, Any]]:
    """Return results by line; raises OSError."""
    with store.open(key) as file:
        records = [json.loads(line) for line in file]
    return {record["line"]: record for record in records}


def seed_journal(store: FileStore, key: str | None, journal: Path) -> None:
    """Begin a journal with what another worker has done, unless this one has its own."""
    if key is None or journal.exists():
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    unfinished = journal.with_suffix(".seed")
    with contextlib.suppress(FileNotFoundError):  # then its lines are asked again
        with unfinished.open("wb") as out:
            for piece in store.pieces(key):
                out.write(piece)
        unfinished.replace(journal)
