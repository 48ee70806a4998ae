"""Batches at an endpoint with OpenAI's `/files` and `/batches`: begun once, waited for, read.

What does *not* live here: what is asked, and which batches a run has.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import openai
from openai.types import Batch
from openai.types.chat import ChatCompletion

from services.endpoint_client.client import (
    Endpoint,
    EndpointError,
    Reply,
    endpoint_error,
    open_sdk,
    reply_of,
)

MOST_LINES = 50_000
MOST_BYTES = 190_000_000
"""Of one input file: OpenAI's limits are 50,000 and 200 MB, and so are ours (docs/batches.md)."""
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})
_COMPLETIONS = "/v1/chat/completions"
_AWAY_S = 900.0
_SERVERS_FAULT = 500

_T = TypeVar("_T")


class _NoJsonError(openai.OpenAIError):
    """HTML with status 200: of a proxy, whose server is away."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch that is over.

    Args:
        why: it failed as a whole; empty: it did not.
    """

    status: str
    why: str
    result_files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one line.

    Args:
        why: there is no reply; in a few words that quote nothing.
        was_asked: else the batch ended before its turn.
        status: HTTP's, where there was an answer.
    """

    custom_id: str
    reply: Reply | None
    why: str = ""
    was_asked: bool = True
    status: int | None = None


def request_line(custom_id: str, body: dict[str, Any]) -> bytes:
    """Return a line of an input file."""
    line = {"custom_id": custom_id, "method": "POST", "url": _COMPLETIONS, "body": body}
    return json.dumps(line).encode() + b"\n"


class Batches:
    """Use it as a context manager.

    Args:
        look_s: between two looks at a batch.
    """

    def __init__(self, endpoint: Endpoint, look_s: float = 5.0) -> None:
        self._endpoint = endpoint
        self._look_s = look_s
        self._sdk = open_sdk(endpoint)

    async def __aenter__(self) -> "Batches":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sdk.close()

    async def upload(self, path: Path) -> str:
        """Return the id of an input file; raises EndpointError."""
        uploaded = await self._patiently(
            lambda: self._sdk.files.create(file=path, purpose="batch", timeout=_AWAY_S), "/files"
        )
        return uploaded.id

    async def begin(self, file_id: str) -> str:
        """Return the id of the one batch of an input file, made or found; raises EndpointError."""
        found = await self._patiently(
            lambda: self._find_or_make(file_id), f"/batches, or no file {file_id!r}"
        )
        return found.id

    async def knows(self, batch_id: str) -> bool:
        """Whether the endpoint lists a batch; raises EndpointError where it lists none at all."""
        return await self._patiently(lambda: self._lists(batch_id), "/batches")

    async def wait(self, batch_id: str, tell: Callable[[int], None]) -> Ended:
        """Return a batch when it is over; raises EndpointError.

        Args:
            tell: is told how many of its lines are done.
        """
        while True:
            found = await self._patiently(
                lambda: self._sdk.batches.retrieve(batch_id), f"batch {batch_id!r}"
            )
            if (counts := found.request_counts) is not None:
                tell(counts.completed + counts.failed)
            if found.status in _ENDED:
                break
            await asyncio.sleep(self._look_s)
        errors = found.errors.data if found.errors else None
        why = "; ".join(each.code or "unknown" for each in errors or ())
        files = (found.output_file_id, found.error_file_id)
        return Ended(
            found.status,
            (why or "no reason is given") if found.status == "failed" else "",
            tuple(file for file in files if file),
        )

    async def results(self, file_id: str) -> AsyncIterator[Result]:
        """Yield what became of lines; raises EndpointError."""
        content = await self._patiently(
            lambda: self._sdk.files.content(file_id, timeout=_AWAY_S), f"file {file_id!r}"
        )
        for line in content.content.splitlines():
            if line.strip():
                try:
                    result = result_of(line)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise EndpointError(
                        f"{self._endpoint.url} gave a file {file_id!r} that holds no results"
                    ) from error
                yield result

    async def _lists(self, batch_id: str) -> bool:
        async for batch in self._all():
            if batch.id == batch_id:
                return True
        return False

    async def _all(self) -> AsyncIterator[Batch]:
        try:
            async for batch in self._sdk.batches.list(limit=100):  # newest first, here and there
                yield batch
        except AttributeError as error:  # what the SDK makes of a page that is no JSON
            raise _NoJsonError from error

    async def _find_or_make(self, file_id: str) -> Batch:
        async for batch in self._all():
            if batch.input_file_id == file_id:
                return batch
        return await self._sdk.batches.create(
            input_file_id=file_id, endpoint=_COMPLETIONS, completion_window="24h"
        )

    async def _patiently(self, call: Callable[[], Awaitable[_T]], what: str) -> _T:
        """Return what a call gives; a server that is away or full is waited for.

        Args:
            what: is asked for, in the words of "knows no ...".
        """
        give_up_s = time.monotonic() + _AWAY_S
        while True:
            try:
                if not isinstance(found := await call(), str):
                    return found
                raise _NoJsonError
            except openai.NotFoundError as error:
                where = self._endpoint.url
                raise EndpointError(f"{where} knows no {what}", status=404) from error
            except openai.OpenAIError as error:
                if not _may_pass(error) or time.monotonic() > give_up_s:
                    raise self._in_our_words(error) from error
            await asyncio.sleep(self._look_s)

    def _in_our_words(self, error: openai.OpenAIError) -> EndpointError:
        if isinstance(error, _NoJsonError):
            return EndpointError(f"{self._endpoint.url} answers with something that is no JSON")
        return endpoint_error(error, self._endpoint)


def _may_pass(error: openai.OpenAIError) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= _SERVERS_FAULT or isinstance(error, openai.RateLimitError)
    return isinstance(error, openai.APIConnectionError | _NoJsonError)


def result_of(line: bytes) -> Result:
    """Return what a line of a result file says."""
    found = cast("dict[str, Any]", json.loads(line))
    custom_id = str(found["custom_id"])
    if error := found.get("error"):
        code = str(error.get("code") or "unknown")
        return Result(custom_id, None, code, was_asked=code not in _NEVER_ASKED)
    response = cast("dict[str, Any]", found.get("response") or {})
    body = cast("dict[str, Any]", response.get("body") or {})
    if response.get("status_code") != 200:
        told = cast("dict[str, Any]", body.get("error") or {})
        code = f", {told['code']}" if told.get("code") else ""
        status = response.get("status_code")
        return Result(custom_id, None, f"HTTP {status}{code}", status=status)
    try:
        return Result(custom_id, reply_of(ChatCompletion.model_validate(body), 0.0))
    except ValueError:
        return Result(custom_id, None, "no chat completion")
