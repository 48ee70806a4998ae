"""POST /v1/embeddings: read, and refused with a reason; no engine of ours makes embeddings."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.body import read_json
from services.gateway.embedding_schemas import EmbeddingRequest
from services.gateway.openai_schemas import converted
from services.gateway.routes.api_document import body_of, refusals
from services.gateway.state import state_of
from services.protocol.errors import ErrorCode, RequestError

router = APIRouter()

_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": body_of(EmbeddingRequest)}
}


@router.post(
    "/v1/embeddings",
    summary="Refuse to embed: no model that is served here makes embeddings",
    openapi_extra=_BODY_SCHEMA,
    responses=refusals(),
)
async def create_embedding(request: Request) -> Response:
    """Say that the model makes no embeddings, or that there is no such model."""
    state = state_of(request)
    state.check_open()
    asked = converted(await read_json(request, state.settings), EmbeddingRequest)
    entry = state.catalogue.find(asked.model)
    raise RequestError(
        ErrorCode.UNSUPPORTED_OPERATION,
        f"the model {entry.id!r} ({entry.card.engine}) makes no embeddings, as no model here does; "
        "ask /v1/chat/completions, /v1/completions or /v1/responses",
        param="model",
    )
