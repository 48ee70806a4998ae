"""Scores of an evaluation that goes on: of the shards that are done, whenever another one is.

They stand in the job's `result` with the status `partial`, until the end puts the receipt's in
their place (`ending.py`). Many workers may do so at once: of two results, the one of more questions
stays, and none comes after the end. What does *not* live here: scores (`scored.py`).
"""

import asyncio
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import structlog

from evaluation.jobs.evaluation_kind import item_of
from evaluation.jobs.office import Office
from evaluation.jobs.parts import read_part
from evaluation.vqa_items import Item
from services.protocol.batch_lines import BatchInputError, raw_lines
from services.protocol.evaluation_lines import EvaluationItem, read_evaluation_line
from services.store.database import DATABASE_AWAY
from services.store.file_records import find_file
from services.store.models import JobRow, ShardRow
from services.store.running_results import put_running_result, running_result
from services.store.shard_records import shards_of

_log = structlog.get_logger()

_PAUSE_S = 3.0
_PAUSE_PER_COST = 10.0
"""A large benchmark takes seconds to score: not more than a tenth of the time is spent on it."""


async def score_what_is_done(office: Office, job: JobRow) -> None:
    """Score the shards that are done, unless that was done just now or the job is at its end.

    What goes wrong is logged only: the scores of the end do not depend on it.
    """
    if job.kind != "evaluation":
        return
    try:
        await _score(office, job)
    except (*DATABASE_AWAY, BatchInputError) as error:
        _log.warning("running_scores.missed", job_id=job.id, cause=type(error).__name__)


async def _score(office: Office, job: JobRow) -> None:
    async with office.database.begin() as session:
        told = await running_result(session, job.id)
        if told is None or not told.is_due:
            return
        shards = [each for each in await shards_of(session, job.id) if each.state == "done"]
        file = await find_file(session, job.tenant_id, job.input_file_id)
    num_scored = sum(shard.num_lines for shard in shards)
    if file is None or num_scored <= told.num_scored:
        return
    scorer = await asyncio.to_thread(_load_scorer)
    if scorer is None:
        return
    began_s = time.monotonic()
    items, answers = await asyncio.to_thread(_read, office, file.key, shards)
    result = await asyncio.to_thread(scorer, job, items, answers)
    pause_s = max(_PAUSE_S, _PAUSE_PER_COST * (time.monotonic() - began_s))
    async with office.database.begin() as session:
        await put_running_result(session, job.id, num_scored, result, int(1000 * pause_s))


def _load_scorer() -> Callable[..., dict[str, Any]] | None:
    """Return `scored.partial_result`; None: the packages that it needs are not here."""
    try:
        from evaluation.jobs import scored  # noqa: PLC0415 - an extra has what it loads
    except ImportError:
        return None
    return scored.partial_result


def _read(
    office: Office, key: str, shards: Sequence[ShardRow]
) -> tuple[list[Item], list[dict[str, Any]]]:
    """Return the questions of shards, and their answers."""
    items: list[Item] = []
    answers: list[dict[str, Any]] = []
    for shard in shards:
        items += _items_of(office, key, shard)
        done = read_part(office.files, shard.part_key) if shard.part_key else {}
        answers += [dict(each["row"]) for each in done.values() if each["is_good"]]
    return items, answers


def _items_of(office: Office, key: str, shard: ShardRow) -> Iterator[Item]:
    """Give the questions of a shard."""
    file: IO[bytes]
    with office.files.open(key) as file:
        file.seek(shard.start_byte)
        content = io.BytesIO(file.read(shard.end_byte - shard.start_byte))
    for raw in raw_lines(content):
        line = read_evaluation_line(raw.content, raw.number)
        if isinstance(line, EvaluationItem):
            yield item_of(line)
