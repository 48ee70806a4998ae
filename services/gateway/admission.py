"""Decides whether a request may enter, before any image of it is decoded."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from services.gateway.catalogue import CatalogueEntry, ModelCatalogue
from services.gateway.media.image_costs import ImageCosts, weigh
from services.gateway.media.images import ImageInput, ImageLimits
from services.gateway.openai_schemas import ChatCompletionRequest
from services.gateway.queue_errors import redis_away
from services.gateway.state import GatewayState
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ModelCard
from services.protocol.request_queue import LanePlace

_ALWAYS = frozenset({
    "model", "messages", "parallel_tool_calls", "stream", "stream_options", "user",
})  # fmt: skip
_CONDITIONAL = frozenset(ChatCompletionRequest.__struct_fields__) - _ALWAYS
"""Parameters that an engine may not know."""


def admit(
    chat: ChatCompletionRequest, catalogue: ModelCatalogue, needs: frozenset[str] = frozenset()
) -> CatalogueEntry:
    """Return the model that will answer, and its adapter.

    Args:
        needs: what its engine must be able to do beside the parameters.

    Raises:
        NotFoundError, UnavailableError: the model does not exist, or nobody serves it now.
        RequestError: its engine cannot do what a parameter asks.
    """
    entry = catalogue.find(chat.model)
    card = entry.card
    for name in _CONDITIONAL - card.parameters:
        if getattr(chat, name) is not None:
            raise _cannot(name, chat.model, card.engine)
    for name in needs - card.parameters:
        raise _cannot(name, chat.model, card.engine)
    return entry


def _cannot(name: str, model: str, engine: str) -> RequestError:
    return RequestError(
        ErrorCode.UNSUPPORTED_PARAMETER,
        f"the engine of {model!r} ({engine}) cannot do {name!r}; leave it out",
        param=name,
    )


def check_images(
    inputs: Sequence[ImageInput], chat: ChatCompletionRequest, card: ModelCard, limits: ImageLimits
) -> None:
    """Raise RequestError where images are too many or too large, or cannot fit the context."""
    costs = weigh(inputs, card, limits)
    _check_context(costs, chat.max_completion_tokens or chat.max_tokens, card)


@asynccontextmanager
async def kept_room(state: GatewayState, place: LanePlace) -> AsyncGenerator[None]:
    """Keep room for a request while its images are fetched and decoded.

    Raises:
        OverloadedError, UnavailableError: it would not be taken now, so nothing is done for it.
    """
    if not state.dispatcher.is_redis_up:
        raise redis_away()
    async with state.dispatcher.room.kept(place):
        yield


def _check_context(costs: ImageCosts, max_tokens: int | None, card: ModelCard) -> None:
    """Refuse what cannot fit, whatever its text is; the worker counts the rest."""
    needed = costs.least_tokens + 1 + (max_tokens or 1)  # no prompt is without any text
    if needed <= card.context_length:
        return
    asked = f", max_tokens {max_tokens}" if max_tokens is not None else ""
    raise RequestError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"the images alone have {costs.least_tokens} tokens{asked}: that exceeds the "
        f"{card.context_length}-token context of `{card.id}`; send fewer or smaller images"
        f"{' or lower max_tokens' if asked else ''}",
        param="messages",
    )
