"""/v1/batches: many requests in one file, answered when there is room, as OpenAI's API has it.

What does *not* live here: the work itself (`evaluation/jobs`).
"""

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.job_schemas import (
    Batch,
    BatchList,
    CreateBatchRequest,
    batch_of,
    batch_page,
    read_create_batch,
)
from services.gateway.local_only import check_local
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers, body_of
from services.gateway.routes.chat import ANONYMOUS
from services.gateway.routes.input_file import usable_input
from services.gateway.state import state_of
from services.protocol.errors import ErrorCode, NotFoundError
from services.protocol.jobs import COMPLETION_WINDOWS
from services.store.job_records import (
    Counts,
    NewJob,
    add_job,
    cancel_job,
    counts_of,
    find_job,
    list_jobs,
)
from services.store.models import JobRow

router = APIRouter(prefix="/v1/batches", dependencies=[Depends(check_local)])

_MOST_LISTED = 100
_LISTED = 20


@router.post(
    "",
    summary="Create a batch",
    openapi_extra={"requestBody": {"required": True, "content": body_of(CreateBatchRequest)}},
    responses=answers(Batch, "The batch"),
)
async def create_batch(request: Request) -> Response:
    """Answer every line of a file that was uploaded with the purpose `batch`."""
    state = state_of(request)
    state.check_open()
    wanted = read_create_batch(await read_json(request, state.settings))
    async with state.store.begin() as session:
        file = await usable_input(session, wanted.input_file_id, "batch")
        state.catalogue.find(file.model)  # raises where no worker ever served it
        job = await add_job(
            session,
            NewJob(
                tenant_id=ANONYMOUS,
                kind="batch",
                endpoint=wanted.endpoint,
                model=file.model,
                input_file_id=file.id,
                completion_window=wanted.completion_window,
                window_s=COMPLETION_WINDOWS[wanted.completion_window],
                num_lines=file.num_lines,
                metadata=wanted.metadata,
            ),
        )
    await state.jobs.start(job.id)
    return _json(batch_of(job, Counts()))


@router.get("", summary="List the batches", responses=answers(BatchList, "A page of batches"))
async def list_batches(request: Request) -> Response:
    """The newest first; `limit` and `after` choose."""
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    async with state_of(request).store.begin() as session:
        rows = await list_jobs(session, ANONYMOUS, "batch", page)
        if rows is None:
            raise unknown_after()
        counts = await counts_of(session, [row.id for row in rows])
    return _json(batch_page(rows, counts, page.limit))


@router.get("/{batch_id}", summary="Describe a batch", responses=answers(Batch, "The batch"))
async def show_batch(request: Request, batch_id: str) -> Response:
    """How far it is, and where its results are."""
    async with state_of(request).store.begin() as session:
        row = _known(await find_job(session, batch_id, tenant_id=ANONYMOUS))
        counts = await counts_of(session, [row.id])
    return _json(batch_of(row, counts[row.id]))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=answers(Batch, "The batch"))
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What is answered stays; one that has ended stays as it is."""
    async with state_of(request).store.begin() as session:
        _known(await find_job(session, batch_id, tenant_id=ANONYMOUS))
        await cancel_job(session, ANONYMOUS, batch_id)
    return await show_batch(request, batch_id)


def _known(row: JobRow | None) -> JobRow:
    if row is None or row.kind != "batch":
        raise NotFoundError(
            ErrorCode.BATCH_NOT_FOUND,
            "there is no batch of this id; see GET /v1/batches",
            param="batch_id",
        )
    return row


def _json(body: Batch | BatchList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
