"""Bodies of the routes of keys and of use, as structs. Pure."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modeling.medical_images.choice import BurnedIn
from services.gateway.caller import SCOPES
from services.gateway.openai_schemas import converted
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.key_limits import KeyLimits
from services.store.key_records import MadeKey, NewKey, burned_in_of, limits_of
from services.store.models import KeyRow, UsageRow

DEFAULT_TENANT = "default"
DEFAULT_SCOPES = ("chat", "files", "batches", "evaluations", "feedback", "usage")
MOST_LIFE_S = 10 * 366 * 86_400
MOST_OVERLAP_S = 30 * 86_400
DEFAULT_OVERLAP_S = 86_400
_MOST_COUNT = 2**31 - 1
_MOST_TOKENS = 2**53 - 1

_Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Tenant = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._@:-]+$")]
_Count = Annotated[int, Meta(ge=1, le=_MOST_COUNT)]
_Tokens = Annotated[int, Meta(ge=1, le=_MOST_TOKENS)]


class LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key may use; null: as much as it likes."""

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Tokens | None = None
    concurrent_requests: _Count | None = None
    tokens_per_month: _Tokens | None = None


class CreateKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/keys.

    Args:
        tenant: whose files, jobs and share of the workers the key is about.
        burned_in: what becomes of images with names in their pixels; null: as the gateway has it.
        expires_in_s: null: it does not expire.
    """

    name: _Name
    tenant: Tenant = DEFAULT_TENANT
    scopes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=len(SCOPES))] = DEFAULT_SCOPES
    limits: LimitsBody = LimitsBody()
    burned_in: BurnedIn | None = None
    expires_in_s: Annotated[int, Meta(ge=1, le=MOST_LIFE_S)] | None = None


class RotateKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a rotation, which may be left out.

    Args:
        overlap_s: for so long the old key stays good.
    """

    overlap_s: Annotated[int, Meta(ge=0, le=MOST_OVERLAP_S)] = DEFAULT_OVERLAP_S


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it can be shown; times are seconds since 1970."""

    id: str
    name: str
    tenant: str
    scopes: list[str]
    limits: LimitsBody
    burned_in: BurnedIn | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    replaced_by: str | None
    object: Literal["api_key"] = "api_key"


class IssuedKey(msgspec.Struct, frozen=True):
    """A key that was just made: `key` is shown here and never again."""

    key: str
    record: ApiKey
    object: Literal["api_key.issued"] = "api_key.issued"


class ApiKeyList(msgspec.Struct, frozen=True):
    """A page of keys."""

    data: list[ApiKey]
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class UsageLine(msgspec.Struct, frozen=True):
    """What a key has used of a model on a day (UTC); image tokens are a part of prompt tokens."""

    day: str
    key_id: str | None
    tenant: str
    model: str
    requests: int
    errors: int
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int


class UsageList(msgspec.Struct, frozen=True):
    """A page of use; `next` is the `after` of the next one."""

    data: list[UsageLine]
    next: str | None
    has_more: bool
    object: Literal["list"] = "list"


def read_create_key(body: Any) -> CreateKeyRequest:
    """Return the checked body; raises RequestError."""
    request = converted(body, CreateKeyRequest)
    for scope in request.scopes:
        if scope not in SCOPES:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"{scope[:40]!r} is no scope; there are: {', '.join(SCOPES)}",
                param="scopes",
            )
    return request


def read_rotate_key(body: Any) -> RotateKeyRequest:
    """Return the checked body; raises RequestError."""
    return converted(body, RotateKeyRequest)


def new_key_of(request: CreateKeyRequest) -> NewKey:
    """Return what the store makes a key of."""
    limits = request.limits
    return NewKey(
        name=request.name,
        tenant_id=request.tenant,
        scopes=tuple(dict.fromkeys(request.scopes)),
        limits=KeyLimits(
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrent_requests,
            limits.tokens_per_month,
        ),
        burned_in=request.burned_in,
        expires_in_s=request.expires_in_s,
    )


def key_of(row: KeyRow) -> ApiKey:
    """Return a key in the form of the API."""
    limits = limits_of(row)
    return ApiKey(
        id=row.id,
        name=row.name,
        tenant=row.tenant_id,
        scopes=row.scopes.split(),
        limits=LimitsBody(
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.concurrent_requests,
            limits.tokens_per_month,
        ),
        burned_in=burned_in_of(row),
        created_at=row.created_ms // 1000,
        expires_at=_seconds(row.expires_ms),
        revoked_at=_seconds(row.revoked_ms),
        last_used_at=_seconds(row.last_used_ms),
        replaced_by=row.replaced_by,
    )


def issued_key(made: MadeKey) -> IssuedKey:
    """Return what is shown once."""
    return IssuedKey(made.key, key_of(made.row))


def key_page(rows: list[KeyRow], limit: int) -> ApiKeyList:
    """Return a page; a row more than `limit` says that there are more."""
    shown = [key_of(row) for row in rows[:limit]]
    return ApiKeyList(shown, shown[-1].id if shown else None, len(rows) > limit)


def usage_line(row: UsageRow) -> UsageLine:
    """Return a row in the form of the API."""
    return UsageLine(
        row.day,
        row.key_id or None,
        row.tenant_id,
        row.model,
        row.requests,
        row.errors,
        row.prompt_tokens,
        row.image_tokens,
        row.completion_tokens,
    )


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
