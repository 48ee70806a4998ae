"""Decides whether a request may enter, before any image of it is decoded."""

from services.gateway.catalogue import CatalogueEntry, ModelCatalogue
from services.gateway.openai_schemas import ChatCompletionRequest
from services.protocol.errors import ErrorCode, RequestError

_ALWAYS = frozenset({"model", "messages", "stream", "stream_options", "user"})
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
