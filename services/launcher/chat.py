"""Asks a running gateway about images through the official OpenAI client.

Lives here: reading images, the request, and errors in words for a terminal. What does *not* live
here: options (`services/cli.py`), and what is printed (`terminal.py`).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, omit
from openai.types.chat import (
    ChatCompletionContentPartParam,
    ChatCompletionMessageParam,
)

from services.gateway.access.local_only import is_loopback
from services.launcher.image_argument import is_image_url
from services.launcher.image_files import data_url
from services.launcher.terminal import CommandError

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 600.0  # the gateway's own limit for a request
_NOT_CONNECTED = {"ConnectError", "ProxyError"}
"""By name: the client stands on httpx or on httpx2, as its version has it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask; what is None is left to the server.

    Args:
        images: files, and URLs that the gateway fetches.
        model: None for the first that the server names.
    """

    text: str
    images: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


async def answer_pieces(
    url: str, question: Question, *, stream: bool, key: str | None = None
) -> AsyncIterator[str]:
    """Yield the answer as it comes: token by token, or in one piece without `stream`.

    Args:
        url: of the API, as `api_url` returns it.

    Raises:
        CommandError: an image cannot be used, the gateway cannot be reached, or it refuses.
    """
    messages = _messages(question)
    async with _client(url, key) as client:
        try:
            model = question.model or await _first_model(client, url)
            if stream:
                async for piece in _streamed(client, model, messages, question):
                    yield piece
            else:
                yield await _whole(client, model, messages, question)
        except openai.AuthenticationError as error:
            raise (_in_words(error, url) if key else _needs_key(url)) from error
        except openai.APIError as error:
            raise _in_words(error, url) from error
        except httpx.TransportError as error:  # the client passes it on from within a stream
            raise CommandError(_broken(url)) from error


async def _streamed(
    client: AsyncOpenAI,
    model: str,
    messages: list[ChatCompletionMessageParam],
    question: Question,
) -> AsyncIterator[str]:
    chunks = await client.chat.completions.create(
        model=model,
        messages=messages,
        stream=True,
        max_tokens=omit if question.max_tokens is None else question.max_tokens,
        temperature=omit if question.temperature is None else question.temperature,
    )
    is_complete = False
    async for chunk in chunks:
        for choice in chunk.choices:
            is_complete = is_complete or choice.finish_reason is not None
            if choice.delta.content:
                yield choice.delta.content
    if not is_complete:
        raise CommandError(_broken(str(client.base_url).rstrip("/")))


async def _whole(
    client: AsyncOpenAI,
    model: str,
    messages: list[ChatCompletionMessageParam],
    question: Question,
) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=omit if question.max_tokens is None else question.max_tokens,
        temperature=omit if question.temperature is None else question.temperature,
    )
    return answer.choices[0].message.content or ""


async def _first_model(client: AsyncOpenAI, url: str) -> str:
    models = (await client.models.list()).data
    if not models:
        raise CommandError(f"the gateway at {url} serves no model yet; start a worker")
    bases = [model for model in models if (model.model_extra or {}).get("parent") is None]
    return (bases or models)[0].id


def _messages(question: Question) -> list[ChatCompletionMessageParam]:
    parts: list[ChatCompletionContentPartParam] = [
        {"type": "image_url", "image_url": {"url": _url_of(image)}} for image in question.images
    ]
    parts.append({"type": "text", "text": question.text})
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": parts}]
    if question.system is not None:
        messages.insert(0, {"role": "system", "content": question.system})
    return messages


def _client(url: str, key: str | None) -> AsyncOpenAI:
    """Return a client; a proxy is not asked for what runs on this machine."""
    host = urlsplit(url).hostname or ""
    timeout = openai.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    http = DefaultAsyncHttpxClient(trust_env=not is_loopback(host), timeout=timeout)
    return AsyncOpenAI(
        base_url=url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http
    )


def _url_of(image: str) -> str:
    return image if is_image_url(image) else data_url(Path(image))


def _in_words(error: openai.APIError, url: str) -> CommandError:
    """Return the error in one line."""
    match error:
        case openai.APITimeoutError():
            return CommandError(f"the gateway at {url} did not answer in time")
        case openai.APIConnectionError() if type(error.__cause__).__name__ not in _NOT_CONNECTED:
            return CommandError(_broken(url))
        case openai.APIConnectionError():
            return CommandError(
                f"no gateway answers at {url}; start one (galen up) or name another (--url)"
            )
        case _:
            return CommandError(f"{_message(error)} ({_codes(error)})")


def _needs_key(url: str) -> CommandError:
    """Its own answer speaks of a key that is wrong: the client sends one, come what may."""
    return CommandError(
        f"the gateway at {url} asks for a key, and none was given: put one into GALEN_API_KEY "
        "(galen keys create makes one)"
    )


def _broken(url: str) -> str:
    return f"the connection to the gateway at {url} broke before the answer was complete"


def _message(error: openai.APIError) -> str:
    body = error.body
    if isinstance(body, dict):
        message = body.get("message")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - JSON
        if isinstance(message, str):
            return " ".join(message.split())
    return " ".join(error.message.split())[:300]


def _codes(error: openai.APIError) -> str:
    status = f"HTTP {error.status_code}" if isinstance(error, openai.APIStatusError) else ""
    return ", ".join(part for part in (error.code, status) if part) or "no code"
