"""The end of a job: the results of its shards in one file, or two, in the order of the input.

It may be done twice, at the same time even: the files have fixed ids, and come out the same.
"""

import asyncio
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import httpx
import structlog

from evaluation.jobs.asking import Answered
from evaluation.jobs.office import Office
from evaluation.jobs.parts import job_folder, read_part
from evaluation.jobs.starting import cut, splits_of
from services.protocol.batch_lines import BatchInputError
from services.store.file_records import NewFile, add_file, find_file
from services.store.job_records import end_job, fail_job, finalize_job, find_job, new_shards
from services.store.models import JobRow, ShardRow
from services.store.shard_records import shards_of

_log = structlog.get_logger()

_REASONS = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was made"),
    "expired": ("batch_expired", "the batch's window was over before this request was made"),
}
_INPUT_GONE = {
    "code": "file_not_found",
    "message": "the input file, or a part of the results, is gone from the file store",
}
_NOT_SCORED = (
    "the answers are kept and not scored: the job worker lacks the packages of "
    "`pip install 'galen[evaluation]'`; score them with `galen evaluate score`"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line's result."""

    is_good: bool
    content: dict[str, Any]


async def end(office: Office, job_id: str) -> None:
    """Bring a job to its end, if all its shards are done."""
    unbegun: list[ShardRow] = []
    async with office.database.begin() as session:
        if not await finalize_job(session, job_id):
            return
        job = await find_job(session, job_id)
        shards = await shards_of(session, job_id)
        file = job and await find_file(
            session, job.tenant_id, job.input_file_id, may_be_expired=True
        )
    if job is None:
        return
    try:
        if file is None:
            raise FileNotFoundError  # noqa: TRY301 - as where only its content is gone
        if not shards:  # it was ended before it was begun
            splits = splits_of(await asyncio.to_thread(cut, office, job, file.key))
            shards = unbegun = new_shards(job, splits, "done")
        rows = _rows(office, job, shards, file.key)
        output, errors = await asyncio.to_thread(_write, office, job, rows)
    except (FileNotFoundError, BatchInputError):
        async with office.database.begin() as session:
            await fail_job(session, job.id, [_INPUT_GONE])
        _log.error("job.failed", job_id=job.id, code=_INPUT_GONE["code"])
        return
    result, receipt = None, None
    if job.kind == "evaluation":
        told = await _model_as_told(office, job)
        result, receipt = await asyncio.to_thread(_score, office, job, file.key, output, told)
    async with office.database.begin() as session:
        session.add_all(unbegun)
        await session.flush()
        is_mine = await end_job(
            session,
            job,
            output_file_id=output.id if output else None,
            error_file_id=errors.id if errors else None,
            result=result,
        )
        if not is_mine:
            return
        for written in (output, errors, receipt):
            if written is not None:
                await add_file(session, written)
    _log.info("job.ended", job_id=job.id, status=job.outcome)
    await asyncio.to_thread(office.files.remove, job_folder(job.id))
    await asyncio.to_thread(
        shutil.rmtree, office.place.journal(job.id, 0).parent, ignore_errors=True
    )


def _rows(office: Office, job: JobRow, shards: list[ShardRow], key: str) -> Iterator[Row]:
    """Give the result of every line; one that was never asked has the reason."""
    kind = office.kind_of(job)
    file: IO[bytes]
    with office.files.open(key) as file:
        for shard in shards:
            done = read_part(office.files, shard.part_key) if shard.part_key else {}
            file.seek(shard.start_byte)
            content = io.BytesIO(file.read(shard.end_byte - shard.start_byte))
            for line in kind.lines(job, content, shard.first_line):
                record = done.get(line.number)
                if record is not None:
                    yield Row(bool(record["is_good"]), record["row"])
                else:
                    reason = _REASONS[job.outcome]
                    row = kind.row(job, line, Answered(error=reason))
                    yield Row(is_good=False, content=dict(row))


def _write(
    office: Office, job: JobRow, rows: Iterator[Row]
) -> tuple[NewFile | None, NewFile | None]:
    """Write results and errors; a file without a line is not written."""
    output = _Output(job, "output")
    errors = _Output(job, "error")
    with office.files.writer(output.key) as good, office.files.writer(errors.key) as bad:
        for row in rows:
            target, out = (output, good) if row.is_good else (errors, bad)
            out.write(target.line(row.content))
    for each in (output, errors):
        if not each.num_lines:
            office.files.remove(each.key)
    return output.file, errors.file


async def _model_as_told(office: Office, job: JobRow) -> dict[str, Any]:
    """Return what the gateway says of the model; empty where it cannot be asked now."""
    settings = office.settings
    try:
        async with httpx.AsyncClient(base_url=settings.gateway_url, trust_env=False) as client:
            told = await client.get(f"/models/{job.model}")
        return told.json() if told.is_success else {}
    except (httpx.HTTPError, ValueError):
        return {}


def _score(
    office: Office, job: JobRow, key: str, output: NewFile | None, told: dict[str, Any]
) -> tuple[dict[str, Any], NewFile | None]:
    """Return the result of an evaluation, and its receipt; none where it cannot be scored here."""
    try:
        from evaluation.jobs import scored  # noqa: PLC0415 - an extra has what it loads
    except ImportError:
        return {"problem": _NOT_SCORED}, None
    asked = scored.read_asked(office, key)
    answers = scored.read_answers(office, output.key if output else None)
    content = scored.receipt_for(job, asked, answers, told)
    receipt = _Output(job, "receipt", suffix="json")
    with office.files.writer(receipt.key) as out:
        out.write(receipt.line(content))
    result = {name: content[name] for name in ("status", "num_unanswered", "metrics")}
    told = {"num_scored": content["num_items"], "receipt_file_id": receipt.id}
    return {**result, **told}, receipt.file


class _Output:
    """A file that a job writes."""

    def __init__(self, job: JobRow, role: str, suffix: str = "jsonl") -> None:
        self._job = job
        self._name = f"{job.id}_{role}.{suffix}"
        self.id = f"file-{hashlib.sha256(f'{job.id}/{role}'.encode()).hexdigest()[:24]}"
        self.key = f"files/{self.id}"
        self.num_lines = 0
        self._num_bytes = 0
        self._digest = hashlib.sha256()

    def line(self, content: dict[str, Any]) -> bytes:
        """Return a line of it, which counts as written."""
        line = json.dumps(content).encode() + b"\n"
        self.num_lines += 1
        self._num_bytes += len(line)
        self._digest.update(line)
        return line

    @property
    def file(self) -> NewFile | None:
        """What it is; None: it has no line."""
        if not self.num_lines:
            return None
        return NewFile(
            id=self.id,
            tenant_id=self._job.tenant_id,
            filename=self._name,
            purpose=f"{self._job.kind}_output",
            num_bytes=self._num_bytes,
            sha256=self._digest.hexdigest(),
            key=self.key,
            num_lines=self.num_lines,
            model=self._job.model,
        )
