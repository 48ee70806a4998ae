"""Decides whether a request may enter, before any image of it is decoded."""

from services.gateway.catalogue import CatalogueEntry, ModelCatalogue
from services.gateway.openai_schemas import ChatCompletionRequest
from services.protocol.errors import ErrorCode, RequestError

_ALWAYS = frozenset({"model", "messages", "stream", "stream_options", "user"})
_CONDITIONAL = frozenset(ChatCompletionRequest.__struct_fields__) - _ALWAYS
"""Parameters that an engine may not know."""


def admit(chat: ChatCompletionRequest, catalogue: ModelCatalogue) -> CatalogueEntry:
    """Return the model that will answer, and its adapter.

    Raises:
        NotFoundError, UnavailableError: the model does not exist, or nobody serves it now.
        RequestError: its engine cannot do what a parameter asks.
    """
    entry = catalogue.find(chat.model)
    card = entry.card
    for name in _CONDITIONAL - card.parameters:
        if getattr(chat, name) is not None:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER,
                f"the engine of {chat.model!r} ({card.engine}) cannot do {name!r}; leave it out",
                param=name,
            )
    return entry
