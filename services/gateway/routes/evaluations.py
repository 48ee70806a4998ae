"""/v1/evaluations: a benchmark's questions asked and scored by the job workers.

`galen evaluate --distributed` makes them. What does *not* live here: the work (`evaluation/jobs`).
"""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.caller import caller_of
from services.gateway.job_schemas import (
    CreateEvaluationRequest,
    Evaluation,
    EvaluationList,
    evaluation_of,
    evaluation_page,
    read_create_evaluation,
)
from services.gateway.routes.api_document import answers, body_of
from services.gateway.routes.job_rows import cancel_row, find_page, find_row, usable_input
from services.gateway.state import state_of
from services.protocol.jobs import BATCH_ENDPOINTS, COMPLETION_WINDOWS
from services.store.job_records import Counts, NewJob, add_job

router = APIRouter(prefix="/v1/evaluations")

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
    caller = caller_of(request)
    wanted = read_create_evaluation(await read_json(request, state.settings))
    state.catalogue.find(wanted.model)  # raises where no worker ever served it
    spec = {
        "benchmark": wanted.benchmark,
        "decoding": msgspec.to_builtins(wanted.decoding),
        "candidates": wanted.candidates,
    }
    async with state.store.begin() as session:
        file = await usable_input(session, caller, wanted.input_file_id, "evaluation")
        job = await add_job(
            session,
            NewJob(
                tenant_id=caller.tenant_id,
                key_id=caller.key_id,
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
    request.scope["galen.object"] = job.id
    await state.jobs.start(job.id)
    return _json(evaluation_of(job, Counts()))


@router.get(
    "", summary="List the evaluations", responses=answers(EvaluationList, "A page of evaluations")
)
async def list_evaluations(request: Request) -> Response:
    """The newest first; `limit` and `after` choose."""
    page = await find_page(request, "evaluation")
    return _json(evaluation_page(page.rows, page.counts, page.limit))


@router.get(
    "/{evaluation_id}",
    summary="Describe an evaluation",
    responses=answers(Evaluation, "The evaluation"),
)
async def show_evaluation(request: Request, evaluation_id: str) -> Response:
    """How far it is; its metrics, of the questions that are scored so far, or of all."""
    return _json(evaluation_of(*await find_row(request, evaluation_id, "evaluation")))


@router.post(
    "/{evaluation_id}/cancel",
    summary="Cancel an evaluation",
    responses=answers(Evaluation, "The evaluation"),
)
async def cancel_evaluation(request: Request, evaluation_id: str) -> Response:
    """What is answered stays; one that has ended stays as it is."""
    await cancel_row(request, evaluation_id, "evaluation")
    return await show_evaluation(request, evaluation_id)


def _json(body: Evaluation | EvaluationList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
