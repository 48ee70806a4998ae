"""GET /v1/models and /v1/models/{id}."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.catalogue import CatalogueEntry
from services.gateway.chunks import Capabilities, ImageCapabilities, Model, ModelList
from services.gateway.routes.api_document import answers
from services.gateway.state import state_of

router = APIRouter()

RAW_PROMPT = "prompt"
"""How an engine's card says that it continues a text without a chat template."""


@router.get(
    "/v1/models",
    summary="List the models that are served",
    responses=answers(ModelList, "Every model"),
)
async def list_models(request: Request) -> Response:
    """Every model with a worker, in OpenAI's form."""
    entries = state_of(request).catalogue.list()
    return _json(ModelList([_model(entry) for entry in entries]))


@router.get(
    "/v1/models/{model:path}",
    summary="Describe one model",
    responses=answers(Model, "The model"),
)
async def show_model(request: Request, model: str) -> Response:
    """One model; 404 where no worker ever served it."""
    return _json(_model(state_of(request).catalogue.find(model)))


def _model(entry: CatalogueEntry) -> Model:
    states = {worker.state for worker in entry.workers}
    state = next((s for s in ("ready", "cordoned", "draining", "starting") if s in states), "gone")
    card = entry.card
    adapter = entry.adapter
    return Model(
        entry.id,
        card.created if adapter is None else adapter.created,
        card.engine,
        card.context_length,
        card.max_images,
        state=state,
        galen=_capabilities(entry),
        parent=None if adapter is None else card.id,
        is_base_verified=None if adapter is None else adapter.is_base_verified,
        adapter_fingerprint=None if adapter is None else adapter.fingerprint or None,
        image_recipe=card.image_recipe,
        provenance=card.provenance,
    )


def _capabilities(entry: CatalogueEntry) -> Capabilities:
    card, recipe = entry.card, entry.card.image_recipe
    images = ImageCapabilities(card.max_images)
    if recipe is not None:
        images = ImageCapabilities(
            card.max_images, recipe.crop_width_px, recipe.crop_height_px, recipe.mode
        )
    routes = ["/v1/chat/completions", "/v1/responses"]
    if RAW_PROMPT in card.parameters:
        routes.append("/v1/completions")
    return Capabilities(
        card.engine,
        card.context_length,
        images,
        sorted(card.parameters - {RAW_PROMPT}),
        sorted(routes),
        [] if entry.adapter else sorted(adapter.served_id for adapter in card.adapters),
        card.provenance.quantization or None,
    )


def _json(body: Model | ModelList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
