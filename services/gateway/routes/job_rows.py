"""What the routes of batches and of evaluations do alike: find a job, its page, its input file."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from services.gateway.caller import Caller, caller_of
from services.gateway.pages import page_of, unknown_after
from services.gateway.state import state_of
from services.protocol.errors import ErrorCode, NotFoundError, RequestError
from services.store.file_records import find_file
from services.store.job_records import Counts, cancel_job, counts_of, find_job, list_jobs
from services.store.models import FileRow, JobKind, JobRow

_MOST_LISTED = 100
_LISTED = 20
_UNKNOWN: dict[JobKind, tuple[ErrorCode, str, str]] = {
    "batch": (
        ErrorCode.BATCH_NOT_FOUND, "there is no batch of this id; see GET /v1/batches", "batch_id",
    ),
    "evaluation": (
        ErrorCode.EVALUATION_NOT_FOUND,
        "there is no evaluation of this id; see GET /v1/evaluations",
        "evaluation_id",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page, and one row more where there are more."""

    rows: list[JobRow]
    counts: dict[str, Counts]
    limit: int


async def find_page(request: Request, kind: JobKind) -> JobPage:
    """Return the page that a request asks for; raises RequestError."""
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    async with state_of(request).store.begin() as session:
        rows = await list_jobs(session, caller_of(request).tenant_id, kind, page)
        if rows is None:
            raise unknown_after()
        counts = await counts_of(session, [row.id for row in rows])
    return JobPage(rows, counts, page.limit)


async def find_row(request: Request, job_id: str, kind: JobKind) -> tuple[JobRow, Counts]:
    """Return a job; raises NotFoundError."""
    async with state_of(request).store.begin() as session:
        row = await _known(session, caller_of(request), job_id, kind)
        counts = await counts_of(session, [row.id])
    return row, counts[row.id]


async def cancel_row(request: Request, job_id: str, kind: JobKind) -> None:
    """Cancel a job, unless it has ended; raises NotFoundError."""
    caller = caller_of(request)
    async with state_of(request).store.begin() as session:
        await _known(session, caller, job_id, kind)
        await cancel_job(session, caller.tenant_id, job_id)


async def usable_input(
    session: AsyncSession, caller: Caller, file_id: str, purpose: str
) -> FileRow:
    """Return a file that was uploaded for this; raises NotFoundError, RequestError."""
    file = await find_file(session, caller.tenant_id, file_id)
    if file is None:
        raise NotFoundError(
            ErrorCode.FILE_NOT_FOUND,
            "there is no file of this id; upload it with POST /v1/files",
            param="input_file_id",
        )
    if file.purpose != purpose:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"the file was uploaded with the purpose {file.purpose!r}; here it must be {purpose!r}",
            param="input_file_id",
        )
    return file


async def _known(session: AsyncSession, caller: Caller, job_id: str, kind: JobKind) -> JobRow:
    row = await find_job(session, job_id, tenant_id=caller.tenant_id)
    if row is None or row.kind != kind:
        code, message, param = _UNKNOWN[kind]
        raise NotFoundError(code, message, param=param)
    return row
