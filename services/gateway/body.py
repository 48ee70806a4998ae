"""Reads a JSON body within its limits, before anything is made of it."""

import asyncio
from typing import Any

from starlette.requests import Request

from services.gateway import strict_json
from services.gateway.settings import GatewaySettings
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, GalenError, RequestError, TooLargeError

_CUT_IN_LOOP_BYTES = 2 << 20
"""Data URLs of larger bodies are cut out in a thread, so that streams do not wait for them."""
_PARSE_IN_LOOP_BYTES = 64 << 10
"""What remains after that cut is parsed in a thread where it is not shorter than this."""


async def read_json(request: Request, settings: GatewaySettings) -> Any:
    """Return the body's JSON value, of any type (hence Any); raises GalenError."""
    _check_headers(request, settings)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        raise _too_slow(settings) from None
    if not body:
        raise RequestError(ErrorCode.INVALID_JSON, "the body is empty; send a JSON object")
    if len(body) > _CUT_IN_LOOP_BYTES:
        return await in_thread(lambda: strict_json.parse(body))
    cut = strict_json.cut(body)
    if len(cut.rest) < _PARSE_IN_LOOP_BYTES:
        return cut.parse()
    return await in_thread(cut.parse)


async def read_optional_json(request: Request, settings: GatewaySettings) -> Any:
    """Return the body's JSON value, as `read_json`, or {} without a body; raises GalenError."""
    has_body = request.headers.get("content-length", "0") != "0"
    if not has_body and "transfer-encoding" not in request.headers:
        return {}
    return await read_json(request, settings)


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_headers(request: Request, settings: GatewaySettings) -> None:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body as content-type: application/json"
        )
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > settings.max_body_bytes:
        raise _too_large(settings.max_body_bytes)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        ErrorCode.REQUEST_TOO_LARGE, f"the body is larger than the {limit >> 20} MiB allowed"
    )


def _too_slow(settings: GatewaySettings) -> GalenError:
    return GalenError(
        ErrorCode.REQUEST_TIMEOUT,
        f"the body did not arrive within {settings.body_timeout_s:g} s",
    )
