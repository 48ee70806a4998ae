"""One shard: claimed, asked line by line, kept as it comes, brought in.

1. Claim it, under a lease; whoever has it already goes on with it.
2. Read its lines, and what an earlier claim has done of them.
3. Ask what is left, many at once; each answer goes to the journal.
4. Meanwhile renew the lease, and hear whether the job is to end.
5. Bring the results to the file store, and mark the shard as done, or give it back.
6. Of an evaluation, score what is done so far.

A process may die at any of these points: the lease ends, somebody else goes on from the journal, or
from the results in the store. What does *not* live here: one request (`asking.py`).
"""

import asyncio
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from evaluation.jobs.asking import Answered, GatewayClient
from evaluation.jobs.journal import Journal
from evaluation.jobs.lines import Line
from evaluation.jobs.office import Office
from evaluation.jobs.parts import part_key, put_part, seed_journal
from evaluation.jobs.running_scores import score_what_is_done
from services.endpoint_client.record_file import RecordFile, RecordFileError
from services.store.database import DATABASE_AWAY
from services.store.file_records import find_file
from services.store.job_records import Counts, fail_job
from services.store.models import ShardRow
from services.store.shard_records import (
    Claim,
    claim_shard,
    finish_shard,
    give_back_shard,
    renew_shard,
)

_log = structlog.get_logger()

_STRIKES = 3
"""Claims in a row that died with their process and had brought nothing: the shard is why."""
_LOOK_S = 0.25
_RENEWALS_PER_LEASE = 5


_INPUT_GONE = {"code": "file_not_found", "message": "the input file is gone"}


class InputGoneError(Exception):
    """The job's input is not there any more."""


@dataclass(slots=True)
class _Watch:
    """Why a shard is left.

    Args:
        is_ending: its job is cancelled or expired.
        is_asked: all its lines have their answers.
        is_over: its time is up: nothing more is asked, and what is under way may end.
        leave: set when what is under way has to be left, too.
    """

    has_lease: bool = True
    is_ending: bool = False
    is_over: bool = False
    is_asked: bool = False
    leave: asyncio.Event = field(default_factory=asyncio.Event)


async def do_shard(office: Office, job_id: str, number: int) -> None:
    """Do a shard, as far as it comes; does nothing where somebody else has it.

    Raises:
        OSError, RecordFileError: its results cannot be kept.
    """
    async with office.database.begin() as session:
        claim = await claim_shard(
            session, job_id, number, owner=office.place.name, lease_ms=_lease_ms(office)
        )
    if claim is None:
        return
    path = office.place.journal(job_id, number)
    try:
        await asyncio.to_thread(seed_journal, office.files, claim.shard.part_key, path)
        with RecordFile(path, "line", skips_damage=True) as file:
            if file.num_damaged:
                _log.warning("journal.damaged", job_id=job_id, lines=file.num_damaged)
            is_done = await _do(office, claim, file)
        if is_done:
            path.unlink(missing_ok=True)
            await score_what_is_done(office, claim.job)
    except InputGoneError:
        async with office.database.begin() as session:
            await fail_job(session, job_id, [_INPUT_GONE])
    except (OSError, RecordFileError):  # the disk is full, or an older process still writes
        async with office.database.begin() as session:
            before = Counts(claim.shard.num_completed, claim.shard.num_failed)
            await give_back_shard(session, claim.shard, before, None)
        raise


async def _do(office: Office, claim: Claim, file: RecordFile) -> bool:
    """Ask what is left, and bring in what there is; returns whether the shard is done."""
    watch = _Watch(is_ending=claim.is_ending)
    journal = Journal(file)
    watching = asyncio.create_task(_keep_watch(office, claim.shard, journal, watch))
    watching.add_done_callback(lambda _: watch.leave.set())  # without it nothing is ours
    try:
        await _ask_and_write(office, claim, journal, watch)
        if watching.done():
            watching.result()
        if not watch.has_lease:
            _log.warning("shard.lost", job_id=claim.job.id, number=claim.shard.number)
            return False
        records = sorted(file.records.values(), key=lambda record: int(str(record["line"])))
        key = part_key(claim.shard)
        await asyncio.to_thread(put_part, office.files, key, records)
        is_done = watch.is_ending or watch.is_asked
        async with office.database.begin() as session:
            if is_done:
                is_done = await finish_shard(session, claim.shard, journal.counts, key)
            else:
                await give_back_shard(session, claim.shard, journal.counts, key)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await office.send_due()
    return is_done


async def _ask_and_write(office: Office, claim: Claim, journal: Journal, watch: _Watch) -> None:
    """Return when all is asked, or the shard has to be left; what came is on the disk then."""
    writing = asyncio.create_task(journal.run())
    asking = asyncio.create_task(_ask(office, claim, journal, watch))
    leaving = asyncio.create_task(watch.leave.wait())
    try:
        done, _ = await asyncio.wait(
            [writing, asking, leaving], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()  # raises what broke it
    finally:
        for task in (asking, leaving):
            task.cancel()
        await asyncio.gather(asking, leaving, return_exceptions=True)
        journal.close()
        await asyncio.gather(writing, return_exceptions=True)
    writing.result()


async def _ask(office: Office, claim: Claim, journal: Journal, watch: _Watch) -> None:
    if watch.is_ending:
        return
    settings = office.settings
    lines = await _lines_left(office, claim, journal)
    kind = office.kind_of(claim.job)

    def keep(line: Line, answered: Answered) -> None:
        row = kind.row(claim.job, line, answered)
        journal.add(line.number, row, is_good=answered.is_good)

    num_known = journal.counts.completed + journal.counts.failed
    if claim.shard.strikes >= _STRIKES and num_known <= claim.shard.num_at_claim:
        _log.error("shard.poisoned", job_id=claim.job.id, number=claim.shard.number)
        reason = ("worker_lost", "every process that worked on this part of the job died")
        for line in lines:
            keep(line, Answered(error=reason))
        watch.is_asked = True
        return
    at_once = settings.at_once
    token = office.token_for(claim.job)
    limit_s = settings.request_timeout_s
    async with GatewayClient(settings.gateway_url, at_once, limit_s, token) as client:
        waiting = iter(lines)  # shared: each task takes the next one
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(lines))):
                group.create_task(_ask_on(client, waiting, keep, watch))
        watch.is_asked = next(waiting, None) is None


async def _ask_on(
    client: GatewayClient,
    waiting: Iterator[Line],
    keep: Callable[[Line, Answered], None],
    watch: _Watch,
) -> None:
    while not watch.is_over and (line := next(waiting, None)) is not None:
        if line.body is None:
            keep(line, Answered(error=line.problem))
        else:
            keep(line, await client.ask(line.body))


async def _lines_left(office: Office, claim: Claim, journal: Journal) -> Sequence[Line]:
    job, shard = claim.job, claim.shard
    async with office.database.begin() as session:
        file = await find_file(session, job.tenant_id, job.input_file_id, may_be_expired=True)
    if file is None:
        raise InputGoneError

    def read() -> list[Line]:
        try:
            with office.files.open(file.key) as opened:
                opened.seek(shard.start_byte)
                content = io.BytesIO(opened.read(shard.end_byte - shard.start_byte))
        except FileNotFoundError:
            raise InputGoneError from None
        lines = office.kind_of(job).lines(job, content, shard.first_line)
        return [line for line in lines if not journal.has(line.number)]

    return await asyncio.to_thread(read)


async def _keep_watch(office: Office, shard: ShardRow, journal: Journal, watch: _Watch) -> None:
    """Renew the lease, and say when the shard has to be left."""
    settings, place = office.settings, office.place
    began_s = time.monotonic()
    renew_every_s = settings.lease_s / _RENEWALS_PER_LEASE
    renewed_s = began_s - renew_every_s  # due at once: the journal may have more than was told
    while watch.has_lease:
        await asyncio.sleep(_LOOK_S)
        now_s = time.monotonic()
        over_s = now_s - began_s - settings.shard_time_s
        watch.is_over = over_s > 0
        if over_s > settings.request_timeout_s or place.stop_file.exists():
            watch.leave.set()
        if now_s - renewed_s < renew_every_s:
            continue
        try:
            async with office.database.begin() as session:
                outcome = await renew_shard(
                    session, shard, journal.counts, lease_ms=_lease_ms(office)
                )
        except DATABASE_AWAY as error:
            _log.warning("lease.unsure", job_id=shard.job_id, cause=type(error).__name__)
            if now_s - renewed_s < settings.lease_s:
                continue
            outcome = None
        renewed_s = now_s
        watch.has_lease = outcome is not None
        watch.is_ending = outcome not in {None, "completed"}
        if not watch.has_lease or watch.is_ending:
            watch.leave.set()


def _lease_ms(office: Office) -> int:
    return int(office.settings.lease_s * 1000)
