"""/v1/batches: many requests in one file, answered when there is room, as OpenAI's API has it.

What does *not* live here: the work itself (`evaluation/jobs`).
"""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.caller import caller_of
from services.gateway.job_schemas import (
    Batch,
    BatchList,
    CreateBatchRequest,
    batch_of,
    batch_page,
    read_create_batch,
)
from services.gateway.routes.api_document import answers, body_of
from services.gateway.routes.job_rows import cancel_row, find_page, find_row, usable_input
from services.gateway.state import state_of
from services.protocol.jobs import COMPLETION_WINDOWS
from services.store.job_records import Counts, NewJob, add_job

router = APIRouter(prefix="/v1/batches")


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
    caller = caller_of(request)
    wanted = read_create_batch(await read_json(request, state.settings))
    async with state.store.begin() as session:
        file = await usable_input(session, caller, wanted.input_file_id, "batch")
        state.catalogue.find(file.model)  # raises where no worker ever served it
        job = await add_job(
            session,
            NewJob(
                tenant_id=caller.tenant_id,
                key_id=caller.key_id,
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
    request.scope["galen.object"] = job.id
    await state.jobs.start(job.id)
    return _json(batch_of(job, Counts()))


@router.get("", summary="List the batches", responses=answers(BatchList, "A page of batches"))
async def list_batches(request: Request) -> Response:
    """The newest first; `limit` and `after` choose."""
    page = await find_page(request, "batch")
    return _json(batch_page(page.rows, page.counts, page.limit))


@router.get("/{batch_id}", summary="Describe a batch", responses=answers(Batch, "The batch"))
async def show_batch(request: Request, batch_id: str) -> Response:
    """How far it is, and where its results are."""
    return _json(batch_of(*await find_row(request, batch_id, "batch")))


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=answers(Batch, "The batch"))
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """What is answered stays; one that has ended stays as it is."""
    await cancel_row(request, batch_id, "batch")
    return await show_batch(request, batch_id)


def _json(body: Batch | BatchList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
