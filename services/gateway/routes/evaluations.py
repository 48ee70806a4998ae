"""/v1/evaluations: a benchmark's questions asked and scored by the job workers.

`galen evaluate --distributed` makes them. What does *not* live here: the work (`evaluation/jobs`).
"""

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.job_schemas import (
    CreateEvaluationRequest,
    Evaluation,
    EvaluationList,
    evaluation_of,
    evaluation_page,
    read_create_evaluation,
)
from services.gateway.local_only import check_local
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers, body_of
from services.gateway.routes.chat import ANONYMOUS
from services.gateway.routes.input_file import usable_input
from services.gateway.state import state_of
from services.protocol.errors import ErrorCode, NotFoundError
from services.protocol.jobs import BATCH_ENDPOINTS, COMPLETION_WINDOWS
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

router = APIRouter(prefix="/v1/evaluations", dependencies=[Depends(check_local)])

_MOST_LISTED = 100
_LISTED = 20
_WINDOW = "24h"


@router.post(
    "",
    summary="Start an evaluation",
    openapi_extra={"requestBody": {"required": True, "content": body_of(CreateEvaluationRequest)}},
    responses=answers(Evaluation, "The evaluation"),
)
async def create_evaluation(request: Request) -> Response:
    """Ask a model the questions of a file that was uploaded with the purpose `evaluation`."""
    state = state_of(request)
    state.check_open()
    wanted = read_create_evaluation(await read_json(request, state.settings))
    state.catalogue.find(wanted.model)  # raises where no worker ever served it
    spec = {
        "benchmark": wanted.benchmark,
        "decoding": msgspec.to_builtins(wanted.decoding),
        "candidates": wanted.candidates,
    }
    async with state.store.begin() as session:
        file = await usable_input(session, wanted.input_file_id, "evaluation")
        job = await add_job(
            session,
            NewJob(
                tenant_id=ANONYMOUS,
                kind="evaluation",
                endpoint=BATCH_ENDPOINTS[0],
                model=wanted.model,
                input_file_id=file.id,
                completion_window=_WINDOW,
                window_s=COMPLETION_WINDOWS[_WINDOW],
                num_lines=file.num_lines,
                metadata=wanted.metadata,
                spec=spec,
            ),
        )
    await state.jobs.start(job.id)
    return _json(evaluation_of(job, Counts()))


@router.get(
    "", summary="List the evaluations", responses=answers(EvaluationList, "A page of evaluations")
)
async def list_evaluations(request: Request) -> Response:
    """The newest first; `limit` and `after` choose."""
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    async with state_of(request).store.begin() as session:
        rows = await list_jobs(session, ANONYMOUS, "evaluation", page)
        if rows is None:
            raise unknown_after()
        counts = await counts_of(session, [row.id for row in rows])
    return _json(evaluation_page(rows, counts, page.limit))


@router.get(
    "/{evaluation_id}",
    summary="Describe an evaluation",
    responses=answers(Evaluation, "The evaluation"),
)
async def show_evaluation(request: Request, evaluation_id: str) -> Response:
    """How far it is; its metrics, when it has ended."""
    async with state_of(request).store.begin() as session:
        row = _known(await find_job(session, evaluation_id, tenant_id=ANONYMOUS))
        counts = await counts_of(session, [row.id])
    return _json(evaluation_of(row, counts[row.id]))


@router.post(
    "/{evaluation_id}/cancel",
    summary="Cancel an evaluation",
    responses=answers(Evaluation, "The evaluation"),
)
async def cancel_evaluation(request: Request, evaluation_id: str) -> Response:
    """What is answered stays; one that has ended stays as it is."""
    async with state_of(request).store.begin() as session:
        _known(await find_job(session, evaluation_id, tenant_id=ANONYMOUS))
        await cancel_job(session, ANONYMOUS, evaluation_id)
    return await show_evaluation(request, evaluation_id)


def _known(row: JobRow | None) -> JobRow:
    if row is None or row.kind != "evaluation":
        raise NotFoundError(
            ErrorCode.EVALUATION_NOT_FOUND,
            "there is no evaluation of this id; see GET /v1/evaluations",
            param="evaluation_id",
        )
    return row


def _json(body: Evaluation | EvaluationList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
