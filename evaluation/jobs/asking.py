"""One line of a job to the gateway, until there is an answer, or reason to expect none.

What says nothing about the request is waited out, however long: the gateway is away, its queue is
full, no worker has the model now. What may be the request's fault is tried a few times. What does
*not* live here: how many at once (`services.endpoint_client.pace`), when to stop waiting
(`shard.py`, which cancels).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import httpx

from services.endpoint_client.client import PREPROCESS_HEADER
from services.endpoint_client.pace import Pace
from services.protocol.connection import Backoff
from services.protocol.errors import ErrorCode

_TRIES = 3
_LOSSES = 10
"""Of the connection under one request: more than crashes explain, the request may cause them."""
_WAIT_S = 1.0
_MOST_WAIT_S = 600.0
_BATCH_LANE = {"x-galen-lane": "batch", "content-type": "application/json"}

_WAITED_OUT = frozenset({
    ErrorCode.OVERLOADED, ErrorCode.BACKEND_UNAVAILABLE, ErrorCode.SHUTTING_DOWN,
    ErrorCode.MODEL_UNLOADED, ErrorCode.MODEL_NOT_FOUND,  # it was there when the job was made
    ErrorCode.STORAGE_UNAVAILABLE,  # of its keys
})  # fmt: skip
_OURS = frozenset(ErrorCode)
_FULL = frozenset({HTTPStatus.TOO_MANY_REQUESTS})
_AWAY = frozenset({
    HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
})  # fmt: skip
"""Said by a proxy, whose words are not ours, of a gateway that it cannot reach."""
_TRIED_AGAIN = frozenset({
    ErrorCode.WORKER_LOST, ErrorCode.INPUT_EXPIRED, ErrorCode.INTERNAL_ERROR,
    ErrorCode.PROTOCOL_MISMATCH, ErrorCode.REQUEST_TIMEOUT,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back, or why nothing did.

    Args:
        body: JSON.
        error: code and message, where there was no response.
        seconds: of the try that gave it.
        preprocess: what the gateway says of how images became pixels.
    """

    status: int = 0
    request_id: str = ""
    body: dict[str, Any] | None = None
    error: tuple[str, str] | None = None
    seconds: float = 0.0
    preprocess: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is an answer."""
        return self.status == HTTPStatus.OK


class GatewayClient:
    """Use it as a context manager.

    Args:
        url: of the gateway, with `/v1`.
        at_once: requests, at most.
        token: for whom is asked (`services.store.key_secrets`).
    """

    def __init__(self, url: str, at_once: int, timeout_s: float, token: str) -> None:
        self._pace = Pace(at_once)
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={**_BATCH_LANE, "authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_s, connect=5.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=at_once),
            trust_env=False,
        )

    async def __aenter__(self) -> "GatewayClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, body_of: Callable[[], bytes]) -> Answered:
        """Return what a chat completion gives.

        Args:
            body_of: makes its body, when it is sent: many wait, and images are large.
        """
        away = Backoff(first_s=0.2, most_s=2.0)
        tries = num_lost = 0
        while True:
            try:
                answered, code = await self._try(body_of)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                await away.wait()
            except httpx.ReadTimeout:
                tries += 1
                if tries == _TRIES:
                    return Answered(error=("timeout", "no answer came in time"))
            except httpx.TransportError:  # it went away with the request
                num_lost += 1
                if num_lost == _LOSSES:
                    return Answered(error=("connection_lost", "the gateway always went away"))
                await away.wait()
            else:
                if code in _WAITED_OUT:
                    continue  # the pace waits
                tries += 1
                may_pass = code in _TRIED_AGAIN or answered.body is None
                if not may_pass or tries >= _TRIES:
                    return answered
                await away.wait()

    async def _try(self, body_of: Callable[[], bytes]) -> tuple[Answered, str]:
        """Ask once; returns the answer and the code of its error."""
        async with self._pace.turn() as began_s:
            response = await self._client.post("/chat/completions", content=body_of())
        answered, code = _read(response)
        if response.status_code in _FULL or (response.status_code in _AWAY and code not in _OURS):
            code = ErrorCode.OVERLOADED
        if code in _WAITED_OUT:
            self._pace.refused(began_s, _wait_s(response))
        elif answered.is_good:
            self._pace.succeeded(began_s)
        return answered, code


def _read(response: httpx.Response) -> tuple[Answered, str]:
    """Return an answer, and the code of an error that it tells."""
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        message = f"the gateway's answer is no JSON object (HTTP {response.status_code})"
        return Answered(error=("invalid_response", message)), ""
    body = cast("dict[str, Any]", found)
    error: Any = body.get("error")
    code = str(error.get("code", "")) if isinstance(error, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - any JSON
    request_id = response.headers.get("x-request-id", "")
    seconds = response.elapsed.total_seconds()
    preprocess = response.headers.get(PREPROCESS_HEADER, "")
    status = response.status_code
    return Answered(status, request_id, body, seconds=seconds, preprocess=preprocess), code


def _wait_s(response: httpx.Response) -> float:
    try:
        asked_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        return _WAIT_S
    return min(max(asked_s, 0.0), _MOST_WAIT_S)
