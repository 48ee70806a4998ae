"""/v1/feedback: votes on answers, each tied to a request of the caller's own.

What was asked is not kept by Galen, so a vote to learn from brings it. What does *not* live here:
how votes become training data (`galen feedback export`).
"""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.caller import Caller, caller_of
from services.gateway.feedback_schemas import (
    CreateVoteRequest,
    Vote,
    VoteDeleted,
    VotedImage,
    VoteList,
    read_vote,
    vote_of,
    vote_page,
)
from services.gateway.image_inputs import choice_of
from services.gateway.openai_schemas import ImagePreprocess
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers, body_of
from services.gateway.state import GatewayState, state_of
from services.protocol.errors import ErrorCode, NotFoundError, RequestError, UnavailableError
from services.store.audit_records import find_record
from services.store.feedback_records import (
    Evidence,
    NewVote,
    Voter,
    list_votes,
    put_vote,
    remove_vote,
)
from services.store.file_records import find_file

router = APIRouter(prefix="/v1/feedback")

_MOST_LISTED = 100
_LISTED = 20
_PURPOSE = "vision"


@router.post(
    "",
    summary="Vote on an answer",
    openapi_extra={"requestBody": {"required": True, "content": body_of(CreateVoteRequest)}},
    responses=answers(Vote, "The vote as it is kept"),
)
async def create_vote(request: Request) -> Response:
    """A second vote on the same request takes the place of the first."""
    state, caller = state_of(request), caller_of(request)
    state.check_open()
    wanted = read_vote(await read_json(request, state.settings))
    if not state.audit.is_on:
        raise UnavailableError(
            ErrorCode.AUDIT_UNAVAILABLE,
            "votes need the audit, which is off here (GALEN_GATEWAY_AUDIT)",
        )
    await state.audit.flush()
    async with state.store.begin() as session:
        asked = await find_record(session, caller.tenant_id, wanted.request_id)
        if asked is None or not asked.model:
            raise NotFoundError(
                ErrorCode.REQUEST_NOT_FOUND,
                "no request of yours has this id; it is the `id` of an answer, or the header "
                "x-request-id",
                param="request_id",
            )
        recipe = _recipe_of(asked.model, state)
        for number, image in enumerate(wanted.images or ()):
            if image.preprocess is not None:
                choice_of(image.preprocess, recipe, f"images[{number}].preprocess")
        evidence = Evidence()
        if wanted.consent:
            evidence = await _evidence(session, caller, wanted, recipe)
        vote = NewVote(
            wanted.request_id, asked.model, asked.revision, wanted.rating, wanted.consent, evidence
        )
        row = await put_vote(session, _voter(caller), vote)
    request.scope["galen.object"] = row.id
    return _json(vote_of(row))


@router.get("", summary="List your votes", responses=answers(VoteList, "A page of votes"))
async def list_own_votes(request: Request) -> Response:
    """Newest first; the caller's own only."""
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    async with state_of(request).store.begin() as session:
        rows = await list_votes(session, _voter(caller_of(request)), page)
    if rows is None:
        raise unknown_after()
    return _json(vote_page(rows, page.limit))


@router.delete(
    "/{vote_id}", summary="Take a vote back", responses=answers(VoteDeleted, "It is gone")
)
async def delete_vote(request: Request, vote_id: str) -> Response:
    """It is removed with all that it brought; what was exported before is not."""
    async with state_of(request).store.begin() as session:
        is_gone = await remove_vote(session, _voter(caller_of(request)), vote_id[:64])
    if not is_gone:
        raise NotFoundError(
            ErrorCode.VOTE_NOT_FOUND,
            "you have no vote of this id; see GET /v1/feedback",
            param="vote_id",
        )
    return _json(VoteDeleted(vote_id))


def _recipe_of(model: str, state: GatewayState) -> str | None:
    """Return the operator's recipe for a model, or for what an adapter belongs to."""
    recipes = state.settings.image_recipes
    try:
        return recipes.get(state.catalogue.find(model).card.id) if recipes else None
    except (NotFoundError, UnavailableError):  # it has gone since it answered
        return recipes.get(model)


async def _evidence(
    session: AsyncSession, caller: Caller, vote: CreateVoteRequest, recipe: str | None
) -> Evidence:
    """Return what a vote with consent brings; raises where a file is not the caller's.

    Args:
        recipe: by which its model is shown medical images where the request says nothing.
    """
    turns = vote.conversation
    images = None
    if vote.images is not None:
        images = [
            await _image(session, caller, number, each) | _shown(each.preprocess, recipe)
            for number, each in enumerate(vote.images)
        ]
    return Evidence(
        reason=vote.reason,
        corrected_answer=vote.corrected_answer,
        conversation=None if turns is None else [msgspec.structs.asdict(turn) for turn in turns],
        images=images,
        subject=vote.subject,
        licence=vote.licence,
    )


async def _image(
    session: AsyncSession, caller: Caller, number: int, image: VotedImage
) -> dict[str, Any]:
    if image.file_id is None:
        return {"sha256": image.sha256 or ""}
    file = await find_file(session, caller.tenant_id, image.file_id)
    param = f"images[{number}].file_id"
    if file is None:
        raise NotFoundError(ErrorCode.FILE_NOT_FOUND, "there is no file of this id", param=param)
    if file.purpose != _PURPOSE:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"the file was uploaded with the purpose {file.purpose!r}; here it must be "
            f"{_PURPOSE!r}",
            param=param,
        )
    return {"file_id": file.id, "sha256": file.sha256}


def _shown(asked: ImagePreprocess | None, recipe: str | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {} if asked is None else msgspec.to_builtins(asked)
    # a mode belongs to a model's input, and trained on is the picture before that
    said = {name: value for name, value in chosen.items() if value is not None and name != "mode"}
    if recipe is not None:
        said.setdefault("recipe", recipe)
    return {"preprocess": said} if said else {}


def _voter(caller: Caller) -> Voter:
    return Voter(caller.tenant_id, caller.key_id or "")


def _json(body: Vote | VoteList | VoteDeleted) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
