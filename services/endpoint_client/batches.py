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
from openai.types.chat import ChatCompletion

from services.endpoint_client.client import Endpoint, Reply, endpoint_error, open_sdk, reply_of

MOST_LINES = 50_000
MOST_BYTES = 190_000_000
"""Of one input file: OpenAI's limits are 50,000 and 200 MB, and so are ours (docs/batches.md)."""
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})
_COMPLETIONS = "/v1/chat/completions"
_AWAY_S = 900.0
_SERVERS_FAULT = 500

_T = TypeVar("_T")


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
    """

    custom_id: str
    reply: Reply | None
    why: str = ""
    was_asked: bool = True


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
            lambda: self._sdk.files.create(file=path, purpose="batch", timeout=_AWAY_S)
        )
        return uploaded.id

    async def begin(self, file_id: str) -> str:
        """Return the id of the one batch of an input file, made or found; raises EndpointError."""
        return await self._patiently(lambda: self._find_or_make(file_id))

    async def wait(self, batch_id: str, tell: Callable[[int], None]) -> Ended:
        """Return a batch when it is over; raises EndpointError.

        Args:
            tell: is told how many of its lines are done.
        """
        while True:
            found = await self._patiently(lambda: self._sdk.batches.retrieve(batch_id))
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
        content = await self._patiently(lambda: self._sdk.files.content(file_id, timeout=_AWAY_S))
        for line in content.content.splitlines():
            if line.strip():
                yield result_of(line)

    async def _find_or_make(self, file_id: str) -> str:
        async for batch in self._sdk.batches.list(limit=100):  # newest first, at OpenAI and here
            if batch.input_file_id == file_id:
                return batch.id
        made = await self._sdk.batches.create(
            input_file_id=file_id, endpoint=_COMPLETIONS, completion_window="24h"
        )
        return made.id

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return what a call gives; a server that is away or full is waited for."""
        give_up_s = time.monotonic() + _AWAY_S
        while True:
            try:
                return await call()
            except openai.OpenAIError as error:
                if not _may_pass(error) or time.monotonic() > give_up_s:
                    raise endpoint_error(error, self._endpoint) from error
            await asyncio.sleep(self._look_s)


def _may_pass(error: openai.OpenAIError) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= _SERVERS_FAULT or isinstance(error, openai.RateLimitError)
    return isinstance(error, openai.APIConnectionError)


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
        return Result(custom_id, None, f"HTTP {response.get('status_code')}{code}")
    try:
        return Result(custom_id, reply_of(ChatCompletion.model_validate(body), 0.0))
    except ValueError:
        return Result(custom_id, None, "no chat completion")
