"""Query and answers of the audit's routes. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from services.protocol.errors import ErrorCode, RequestError
from services.store.audit_chain import AuditChain, AuditRecord
from services.store.audit_records import AuditFilter, place_of

MOST_LISTED = 1000
_NAMES = {
    "tenant": "tenant_id",
    "key": "key_id",
    "model": "model",
    "request_id": "request_id",
    "chain": "chain",
    "code": "code",
    "object": "object",
}
_MOMENTS = {"since": "since_ms", "until": "until_ms"}
_OUTCOMES = {"failed": True, "succeeded": False}
_OF_PAGES = frozenset({"limit", "after", "order"})
_LONGEST = 200


class AuditList(msgspec.Struct, frozen=True):
    """A page of records; `last_id` is what `after` takes."""

    data: list[AuditRecord]
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class AuditChainList(msgspec.Struct, frozen=True):
    """Every chain, and where it begins."""

    data: list[AuditChain]
    object: Literal["list"] = "list"


def read_filter(query: Mapping[str, str]) -> AuditFilter:
    """Return which records a query asks for; raises RequestError."""
    wanted = AuditFilter()
    for name, text in query.items():
        if name in _OF_PAGES:
            continue
        if len(text) > _LONGEST:
            raise _bad(name, f"must have at most {_LONGEST} characters")
        if name in _NAMES:
            wanted = msgspec.structs.replace(wanted, **{_NAMES[name]: text})
        elif name in _MOMENTS:
            wanted = msgspec.structs.replace(wanted, **{_MOMENTS[name]: _moment(name, text)})
        elif name == "outcome":
            if text not in _OUTCOMES:
                raise _bad(name, "must be succeeded or failed")
            wanted = msgspec.structs.replace(wanted, is_failed=_OUTCOMES[text])
        else:
            known = ", ".join(sorted({*_NAMES, *_MOMENTS, "outcome", *_OF_PAGES}))
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER,
                f"the parameter {name[:40]!r} is not supported here; known are {known}",
                param=name[:40],
            )
    return wanted


def audit_page(records: list[AuditRecord], limit: int) -> AuditList:
    """Return a page; `records` has one more where there are more."""
    shown = records[:limit]
    return AuditList(shown, place_of(shown[-1]) if shown else None, len(records) > limit)


def _moment(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _bad(name, "must be a date, or a date with a time, as ISO 8601 has them") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _bad(name: str, rule: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"{name} {rule}", param=name)
