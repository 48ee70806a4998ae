"""POST /v1/galen/preview: what a model would see of an image, and what may be told of its file."""

import base64
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.access.expected_tokens import ExpectedTokens
from services.gateway.body import read_json
from services.gateway.caller import caller_of
from services.gateway.image_inputs import PREPROCESS_HEADER, image_inputs
from services.gateway.media.images import key_of
from services.gateway.openai_schemas import converted
from services.gateway.preview_schemas import Preview, PreviewRequest, facts_of
from services.gateway.routes.api_document import answers, body_of
from services.gateway.state import state_of
from services.gateway.threads import in_thread

router = APIRouter()

_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": body_of(PreviewRequest)}
}


@router.post(
    "/v1/galen/preview",
    summary="Show what a model sees of an image",
    openapi_extra=_BODY_SCHEMA,
    responses=answers(Preview, "The picture, and facts of its file"),
)
async def preview(request: Request) -> Response:
    """One image as a model sees it; nothing is stored, and no worker is asked."""
    state, caller = state_of(request), caller_of(request)
    state.check_open()
    state.audit.check()
    asked = converted(await read_json(request, state.settings), PreviewRequest)
    card = state.catalogue.find(asked.model).card
    # It takes a decoder all the same: a request of its key, without tokens.
    await state.access.meter.begin(request.scope, caller, asked.model, ExpectedTokens(0, 0))
    state.memory.check_large()
    asked_for = [(asked.image_url, "image_url.url")]
    images = await state.image_sources.brought(asked_for, caller, 1)
    (image,) = image_inputs(images, card, caller, state.settings)
    seen = await state.images.preview(image)
    key = await in_thread(lambda: key_of(seen, caller.tenant_id, image.fingerprint))
    request.scope["galen.images"] = [key]
    body = Preview(
        image=f"data:image/png;base64,{base64.b64encode(seen.data).decode()}",
        width=seen.width,
        height=seen.height,
        fingerprint=image.fingerprint,
        facts=facts_of(seen.facts),
    )
    return Response(
        msgspec.json.encode(body),
        headers={PREPROCESS_HEADER: image.fingerprint},
        media_type="application/json",
    )
