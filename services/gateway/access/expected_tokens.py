"""How many tokens a request will probably need, before anybody has counted them. Pure.

Only limits per minute go by it, until the true number is known at the request's end.
"""

from dataclasses import dataclass

from services.gateway.openai_schemas import ChatCompletionRequest, TextContent

_CHARACTERS_PER_TOKEN = 4
"""Of English text: https://help.openai.com/en/articles/4936856."""
_TOKENS_PER_MESSAGE = 4
_ANSWER_TOKENS = 256
"""Where the request does not say how long its answer may be."""
TOKENS_PER_IMAGE = 576
"""Until a model has shown how many it takes: LLaVA-1.5, (336 / 14)^2, arXiv:2310.03744."""


@dataclass(frozen=True, slots=True)
class ExpectedTokens:
    """Of one request; those of images are added by who knows the model."""

    text: int
    images: int
    answer: int


def expected_tokens(chat: ChatCompletionRequest, num_images: int) -> ExpectedTokens:
    """Return what a chat completion will probably need."""
    length = 0
    for message in chat.messages:
        content = message.content
        if isinstance(content, str):
            length += len(content)
        else:
            length += sum(len(part.text) for part in content if isinstance(part, TextContent))
    text = length // _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE * len(chat.messages)
    answer = chat.max_completion_tokens or chat.max_tokens or _ANSWER_TOKENS
    return ExpectedTokens(text, num_images, answer * (chat.n or 1))
