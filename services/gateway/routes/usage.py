"""GET /v1/usage: what was used, per key, model and day; one's own, or with the admin key all."""

import csv
import io
from datetime import date

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from modeling.csv_cells import inert
from services.gateway.caller import ADMIN, caller_of
from services.gateway.key_schemas import UsageLine, UsageList, usage_line
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers
from services.gateway.state import state_of
from services.protocol.errors import ErrorCode, RequestError
from services.store.usage_records import UsagePlace, UsageQuestion, list_usage

router = APIRouter()

_MOST_LISTED = 10_000
_LISTED = 1000
_BETWEEN = "|"


@router.get(
    "/v1/usage", summary="Show what was used", responses=answers(UsageList, "A page of rows")
)
async def show_usage(request: Request) -> Response:
    """The last day first; `start`, `end`, `key`, `model`, `limit`, `after` and `format` choose.

    A row is at most 5 s old. Who has the scope `admin` may ask for a `tenant`, or for all of them.
    """
    query = request.query_params
    caller = caller_of(request)
    tenant_id = query.get("tenant") if caller.may(ADMIN) else caller.tenant_id
    page = page_of(request, most=_MOST_LISTED, default=_LISTED)
    form = query.get("format", "json")
    if form not in {"json", "csv"}:
        raise RequestError(ErrorCode.INVALID_VALUE, "format must be json or csv", param="format")
    asked = UsageQuestion(
        tenant_id,
        _day(request, "start", date.min),
        _day(request, "end", date.max),
        query.get("key"),
        query.get("model"),
        page.limit,
        _place(query.get("after", "")),
    )
    async with state_of(request).store.begin() as session:
        rows = await list_usage(session, asked)
    lines = [usage_line(row) for row in rows[: page.limit]]
    has_more = len(rows) > page.limit
    if form == "csv":
        return Response(_csv(lines), media_type="text/csv; charset=utf-8")
    following = _BETWEEN.join(_quadruple(lines[-1])) if has_more else None
    return Response(
        msgspec.json.encode(UsageList(lines, following, has_more)), media_type="application/json"
    )


def _day(request: Request, name: str, default: date) -> str:
    text = request.query_params.get(name)
    try:
        return (default if text is None else date.fromisoformat(text)).isoformat()
    except ValueError:
        raise RequestError(
            ErrorCode.INVALID_VALUE, f"{name} must be a day such as 2026-11-29", param=name
        ) from None


def _place(after: str) -> UsagePlace | None:
    """Read `next` of the page before; a model's name comes last, and may hold anything."""
    if not after:
        return None
    parts = after.split(_BETWEEN, 3)
    if len(parts) != 4:
        raise unknown_after()
    return UsagePlace(*parts)


def _quadruple(line: UsageLine) -> tuple[str, str, str, str]:
    return line.day, line.key_id or "", line.tenant, line.model


def _csv(lines: list[UsageLine]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(UsageLine.__struct_fields__)
    for line in lines:
        writer.writerow([inert(value) for value in msgspec.structs.astuple(line)])
    return out.getvalue()
