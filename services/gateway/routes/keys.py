"""/v1/admin/keys: API keys made, listed, revoked and rotated. The front door asks for `admin`.

`galen keys` does the same on the database itself.
"""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.body import read_json, read_optional_json
from services.gateway.key_schemas import (
    ApiKey,
    ApiKeyList,
    CreateKeyRequest,
    IssuedKey,
    RotateKeyRequest,
    issued_key,
    key_of,
    key_page,
    new_key_of,
    read_create_key,
    read_rotate_key,
)
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers, body_of
from services.gateway.state import GatewayState, state_of
from services.protocol.errors import ErrorCode, NotFoundError, RequestError, UnavailableError
from services.store.key_records import (
    MOST_KEYS,
    TooManyKeysError,
    add_key,
    find_key,
    list_keys,
    revoke_key,
    rotate_key,
)
from services.store.key_secrets import KeySecrets

router = APIRouter(prefix="/v1/admin/keys")

_MOST_LISTED = 1000
_LISTED = 100


@router.post(
    "",
    summary="Make a key",
    openapi_extra={"requestBody": {"required": True, "content": body_of(CreateKeyRequest)}},
    responses=answers(IssuedKey, "The key, which is never shown again"),
)
async def create_key(request: Request) -> Response:
    """The key itself is in this answer only."""
    state = state_of(request)
    wanted = new_key_of(read_create_key(await read_json(request, state.settings)))
    secrets = await _secrets(state)
    try:
        async with state.store.begin() as session:
            made = await add_key(session, secrets, wanted)
    except TooManyKeysError:
        raise RequestError(
            ErrorCode.INVALID_VALUE, f"there are {MOST_KEYS} keys, the most that may be"
        ) from None
    request.scope["galen.object"] = made.row.id
    await state.access.ring.refresh()
    return _json(issued_key(made))


@router.get("", summary="List the keys", responses=answers(ApiKeyList, "A page of keys"))
async def list_all(request: Request) -> Response:
    """The newest first; `tenant`, `limit` and `after` choose."""
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    async with state_of(request).store.begin() as session:
        rows = await list_keys(session, request.query_params.get("tenant"), page)
    if rows is None:
        raise unknown_after()
    return _json(key_page(rows, page.limit))


@router.get("/{key_id}", summary="Describe a key", responses=answers(ApiKey, "The key"))
async def show_key(request: Request, key_id: str) -> Response:
    """What it may do, until when, and when it was used last."""
    async with state_of(request).store.begin() as session:
        row = await find_key(session, key_id)
    if row is None:
        raise _unknown()
    return _json(key_of(row))


@router.delete("/{key_id}", summary="Revoke a key", responses=answers(ApiKey, "The key"))
async def revoke(request: Request, key_id: str) -> Response:
    """Of no use any more: here at once, at other gateways within 2 s."""
    state = state_of(request)
    async with state.store.begin() as session:
        row = await revoke_key(session, key_id)
    if row is None:
        raise _unknown()
    await state.access.ring.refresh()
    return _json(key_of(row))


@router.post(
    "/{key_id}/rotate",
    summary="Replace a key",
    openapi_extra={"requestBody": {"required": False, "content": body_of(RotateKeyRequest)}},
    responses=answers(IssuedKey, "The new key, which is never shown again"),
)
async def rotate(request: Request, key_id: str) -> Response:
    """Make one like it; the old one stays good for `overlap_s` (a day)."""
    state = state_of(request)
    wanted = read_rotate_key(await read_optional_json(request, state.settings))
    secrets = await _secrets(state)
    async with state.store.begin() as session:
        made = await rotate_key(session, secrets, key_id, wanted.overlap_s)
    if made is None:
        raise _unknown()
    request.scope["galen.object"] = f"{key_id}/rotate/{made.row.id}"
    await state.access.ring.refresh()
    return _json(issued_key(made))


async def _secrets(state: GatewayState) -> KeySecrets:
    try:
        return await state.access.ring.ready_secrets()
    except OSError:
        raise UnavailableError(
            ErrorCode.STORAGE_UNAVAILABLE, "the pepper of the keys cannot be read at the moment"
        ) from None


def _unknown() -> NotFoundError:
    return NotFoundError(
        ErrorCode.KEY_NOT_FOUND,
        "there is no such key, or it is of no use any more; see GET /v1/admin/keys",
        param="key_id",
    )


def _json(body: ApiKey | ApiKeyList | IssuedKey) -> Response:
    return Response(
        msgspec.json.encode(body),
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )
