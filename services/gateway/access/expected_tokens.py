"""How many tokens a request will probably need, before anybody has counted them. Pure.

Only limits per minute go by it, until the true number is known at the request's end.
"""

from dataclasses import dataclass

from services.gateway.openai_schemas import ChatCompletionRequest, texts_in
from services.gateway.prompt_costs import CHARACTERS_PER_TOKEN, UNKNOWN_SIZE, image_tokens
from services.protocol.messages import ModelCard

_TOKENS_PER_MESSAGE = 4
_ANSWER_TOKENS = 256
"""Where the request does not say how long its answer may be."""


@dataclass(frozen=True, slots=True)
class ExpectedTokens:
    """Of one request.

    Args:
        prompt: images included.
    """

    prompt: int
    answer: int


def expected_tokens(
    chat: ChatCompletionRequest, num_images: int, card: ModelCard, num_prompts: int = 1
) -> ExpectedTokens:
    """Return what a request will probably need, whose `chat` holds all of its prompts."""
    length = sum(map(len, texts_in(chat.messages)))
    text = length // CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE * len(chat.messages)
    images = num_images * image_tokens(card, UNKNOWN_SIZE)[0]
    answer = chat.max_completion_tokens or chat.max_tokens or _ANSWER_TOKENS
    return ExpectedTokens(text + images, answer * (chat.n or 1) * num_prompts)
