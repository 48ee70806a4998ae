"""Our side of an OpenAI endpoint: one request, tried again where that may help.

A refusal for want of room (429, 503) slows all requests down and is waited out; a lost connection,
a time-out or another server's error is tried again a few times; what the endpoint says is wrong
with the request is not. What does *not* live here: how many at once (`pace.py`), files.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import AsyncAzureOpenAI, AsyncOpenAI

from services.endpoint_client.pace import Pace
from services.endpoint_client.request_fields import refused_field, renamed, wants_new_name
from services.endpoint_client.retry_after import retry_after_s

_TRIES = 4
_LONGEST_PAUSE_S = 16.0
_TRIES_OF_ONE_KNOWN = 8
"""Over about a minute: so long an endpoint may take to start again."""
_FIRST_PAUSE_S = 0.5
_LONGEST_RETRY_AFTER_S = 600.0
_FULL = frozenset({429, 503})
_SERVERS_FAULT = 500
PREPROCESS_HEADER = "x-galen-preprocess"
"""Of Galen's gateway (`services.gateway.image_inputs`)."""


class EndpointError(Exception):
    """A request that has no answer; the message is one line and holds no text of it.

    Args:
        is_final: no other request will fare better: a wrong key, an unknown model, no such host,
            a field that the model does not take.
        status: HTTP's, where there was an answer.
        code: the endpoint's word for it.
    """

    def __init__(
        self, message: str, *, is_final: bool = False, status: int | None = None, code: str = ""
    ) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Args:
        url: with `/v1`.
        timeout_s: of a whole answer, however slowly it comes.
        refusals_s: for so long one request is told "full" before it is given up.
        key_name: the variable that the key was read from, for messages.
        api_version: of Azure's deployments: `url` is the resource's address, and `model` the
            deployment's name. None: OpenAI's own paths, which Azure has under `/openai/v1`.
    """

    url: str
    model: str
    api_key: str = field(default="unused", repr=False)
    timeout_s: float = 600.0
    refusals_s: float = 900.0
    key_name: str = "OPENAI_API_KEY"
    api_version: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Args:
        seconds: of the try that gave it.
        is_refused: the model says so in the field that is made for it.
        preprocess: what Galen's gateway says of how images became pixels; empty: nothing.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    is_refused: bool = False
    preprocess: str = ""


def open_sdk(endpoint: Endpoint) -> AsyncOpenAI:
    """Return OpenAI's client for an endpoint, which tries nothing again by itself."""
    if endpoint.api_version is not None:
        return AsyncAzureOpenAI(
            azure_endpoint=endpoint.url,
            api_key=endpoint.api_key,
            api_version=endpoint.api_version,
            max_retries=0,
            timeout=endpoint.timeout_s,
        )
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.api_key,
        max_retries=0,
        timeout=endpoint.timeout_s,
    )


class EndpointClient:
    """Use it as a context manager.

    Args:
        at_once: requests, at most.
    """

    def __init__(self, endpoint: Endpoint, at_once: int) -> None:
        self.endpoint = endpoint
        self.pace = Pace(at_once)
        self._client = open_sdk(endpoint)
        self._has_new_names = False
        self._has_answered = False

    async def __aenter__(self) -> "EndpointClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def model_names(self) -> list[str]:
        """Return what the endpoint serves; raises EndpointError."""
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                names = [model.id async for model in self._client.models.list()]
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            raise EndpointError(_words(error, self.endpoint), is_final=True) from error
        self._has_answered = True
        return names

    async def model_as_told(self) -> dict[str, Any]:
        """Return what the endpoint says of the model; raises EndpointError."""
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                told = await self._client.models.retrieve(self.endpoint.model)
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            raise EndpointError(_words(error, self.endpoint), is_final=True) from error
        return told.model_dump(mode="json")

    def fields(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields of a request by the names that the endpoint has shown to want."""
        return renamed(settings) if self._has_new_names else dict(settings)

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Reply:
        """Return the answer to a conversation.

        Args:
            settings: further fields of a chat completion, such as `temperature`.

        Raises:
            EndpointError: there is none.
        """
        given_up_s = time.monotonic() + self.endpoint.refusals_s
        began_s, tries = 0.0, 0
        while True:
            try:
                async with self.pace.turn() as began_s:
                    reply = await self._try(messages, settings)
            except (openai.OpenAIError, TimeoutError, ValueError) as error:
                if _is_full(error):
                    if time.monotonic() > given_up_s:
                        raise self._error(error) from error
                    self.pace.refused(began_s, _wait_s(error))
                    continue
                tries += 1
                if not _may_pass(error) or tries >= self._most_tries(error):
                    raise self._error(error) from error
                await asyncio.sleep(_pause_s(tries))
            else:
                self.pace.succeeded(began_s)
                self._has_answered = True
                return reply

    def _error(self, error: Exception) -> EndpointError:
        """Return an error in our words; a key that was good is not blamed for one request."""
        if isinstance(error, openai.PermissionDeniedError) and self._has_answered:
            return EndpointError(
                f"{self.endpoint.url} does not allow this request (HTTP 403)", status=403,
                code=code_of(error),
            )  # fmt: skip
        return endpoint_error(error, self.endpoint)

    def _most_tries(self, error: Exception) -> int:
        """An endpoint that was there and is away may be starting again."""
        is_away = isinstance(error, openai.APIConnectionError)
        is_late = isinstance(error, openai.APITimeoutError)
        return _TRIES_OF_ONE_KNOWN if is_away and not is_late and self._has_answered else _TRIES

    async def _try(
        self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Reply:
        # it takes plain dictionaries, too; raw, for the headers
        completions: Any = self._client.chat.completions.with_raw_response
        started_s = time.monotonic()
        sent = self.fields(settings)
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                raw = await completions.create(
                    model=self.endpoint.model,
                    messages=list(messages),
                    **sent,
                )
        except openai.BadRequestError as error:
            if not wants_new_name(error, sent):
                raise
            self._has_new_names = True
            return await self._try(messages, settings)
        seconds = time.monotonic() - started_s
        return reply_of(raw.parse(), seconds, raw.headers.get(PREPROCESS_HEADER, ""))


def endpoint_error(error: Exception, endpoint: Endpoint) -> EndpointError:
    """Return an error of OpenAI's client in our words."""
    status = error.status_code if isinstance(error, openai.APIStatusError) else None
    code = code_of(error) if isinstance(error, openai.APIStatusError) else ""
    return EndpointError(
        _words(error, endpoint), is_final=_is_final(error), status=status, code=code
    )


def reply_of(answer: object, seconds: float, preprocess: str = "") -> Reply:
    """Return what an answer says; raises ValueError where it is none (HTML with status 200).

    Args:
        preprocess: what its header says.
    """
    choices = getattr(answer, "choices", None)
    if not choices or choices[0].message is None:
        raise ValueError("the endpoint's answer is no chat completion")
    choice, usage = choices[0], getattr(answer, "usage", None)
    return Reply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "",
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        seconds=seconds,
        is_refused=bool(getattr(choice.message, "refusal", None)),
        preprocess=preprocess,
    )


def _is_full(error: Exception) -> bool:
    is_full = isinstance(error, openai.APIStatusError) and error.status_code in _FULL
    return is_full and not _is_used_up(error)


def _is_used_up(error: Exception) -> bool:
    """Whether an account has nothing left: waiting does not help."""
    return isinstance(error, openai.RateLimitError) and error.code == "insufficient_quota"


def _may_pass(error: Exception) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= _SERVERS_FAULT
    return isinstance(error, openai.APIConnectionError | TimeoutError | ValueError)


def _is_final(error: Exception) -> bool:
    return bool(_is_used_up(error) or refused_field(error)) or (
        isinstance(
            error,
            openai.AuthenticationError
            | openai.PermissionDeniedError
            | openai.NotFoundError
            | openai.APIConnectionError,
        )
        and not isinstance(error, openai.APITimeoutError)
    )


def _wait_s(error: Exception) -> float | None:
    assert isinstance(error, openai.APIStatusError)  # noqa: S101 (asked before)
    return retry_after_s(error.response.headers.get("retry-after"), _LONGEST_RETRY_AFTER_S)


def _pause_s(tries: int) -> float:
    pause_s = min(_FIRST_PAUSE_S * 2**tries, _LONGEST_PAUSE_S)
    return pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


def _words(error: Exception, endpoint: Endpoint) -> str:
    """Return one line that names the endpoint and the cause, and nothing of what was sent."""
    where = endpoint.url
    if isinstance(error, openai.APIStatusError):
        return _words_of_status(error, endpoint)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return f"{where} did not answer within {endpoint.timeout_s:g} s"
    if isinstance(error, openai.APIConnectionError):
        return f"{where} cannot be reached; is it running, and is the address right?"
    return f"{where} answered with something that is no chat completion"


def _words_of_status(error: openai.APIStatusError, endpoint: Endpoint) -> str:
    where = endpoint.url
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"{where} does not take this key (HTTP {error.status_code}); set {endpoint.key_name}"
    if isinstance(error, openai.NotFoundError):
        return f"{where} knows no model {endpoint.model!r}; see {where}/models"
    if field_name := refused_field(error):
        option = f"--{field_name.replace('_', '-')}"
        return (
            f"{endpoint.model!r} at {where} does not take this {field_name} (HTTP 400"
            f"{_of_code(error)}); give what it takes with {option}, or choose another model"
        )
    return f"{where} refused the request (HTTP {error.status_code}{_of_code(error)})"


def _of_code(error: openai.APIStatusError) -> str:
    code = code_of(error)
    return f", {code}" if code else ""


def code_of(error: openai.APIStatusError) -> str:
    """Return the endpoint's code, where it is a word."""
    try:
        code = json.loads(error.response.content)["error"]["code"]
    except (ValueError, TypeError, KeyError):
        return ""
    return code if isinstance(code, str) and code.isidentifier() else ""
