"""Questions to the tiny checkpoint, greedy unless told otherwise."""

from typing import Any

from openai import OpenAI

from tests.end_to_end.chat import user
from tests.end_to_end.conftest import TINY_IMAGE_PX, TINY_MODEL

IMAGE_TOKENS = (TINY_IMAGE_PX // 14) ** 2
LINE_BREAK_TOKENS = 1  # the template writes one behind each image
QUESTION = "Describe the picture."


def ask(client: OpenAI, *messages: Any, **options) -> Any:  # an answer, or a stream of chunks
    """Ask the tiny model, greedily unless told otherwise."""
    defaults: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
    return client.chat.completions.create(
        model=TINY_MODEL, messages=list(messages) or [user(QUESTION)], **(defaults | options)
    )


def text_of(client: OpenAI, *messages: Any, **options) -> str:
    return ask(client, *messages, **options).choices[0].message.content or ""


def prompt_tokens_of(client: OpenAI, *messages: Any) -> int:
    answer = ask(client, *messages, max_tokens=1)
    return answer.usage.prompt_tokens


def tokens_of(client: OpenAI, **options) -> list[str]:
    """The texts of the single tokens of a greedy answer."""
    logprobs = ask(client, logprobs=True, max_tokens=64, **options).choices[0].logprobs
    return [entry.token for entry in logprobs.content]
