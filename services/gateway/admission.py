"""Decides whether a request may enter, before any image of it is decoded."""

from services.gateway.catalogue import ModelCatalogue
from services.gateway.openai_schemas import ChatCompletionRequest
from services.gateway.translate import image_urls
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ModelCard

_ALWAYS = frozenset({"model", "messages", "stream", "stream_options", "user"})


def admit(chat: ChatCompletionRequest, catalogue: ModelCatalogue) -> ModelCard:
    """Return the card of the model that will answer.

    Raises:
        NotFoundError, UnavailableError: the model does not exist, or nobody serves it now.
        RequestError: its engine cannot do what a parameter asks, or takes fewer images.
    """
    card = catalogue.find(chat.model).card
    for name in chat.__struct_fields__:
        if name not in _ALWAYS and name not in card.parameters and getattr(chat, name) is not None:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER,
                f"the engine of {chat.model!r} ({card.engine}) cannot do {name!r}; leave it out",
                param=name,
            )
    for count, (_, param) in enumerate(image_urls(chat), start=1):
        if count > card.max_images:
            raise RequestError(
                ErrorCode.TOO_MANY_IMAGES,
                f"the model {chat.model!r} takes at most {card.max_images} images per request",
                param=param,
            )
    return card
