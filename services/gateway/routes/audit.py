"""/v1/admin/audit: who asked what of which model, for the operator. It can only be read.

What does *not* live here: what is recorded (`gateway/audit.py`), how long (its settings).
"""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.audit_schemas import (
    MOST_LISTED,
    AuditChainList,
    AuditList,
    audit_page,
    read_filter,
)
from services.gateway.pages import page_of, unknown_after
from services.gateway.routes.api_document import answers
from services.gateway.state import state_of
from services.store.audit_records import list_chains, list_records

router = APIRouter(prefix="/v1/admin/audit")

_LISTED = 100


@router.get("", summary="Read the audit", responses=answers(AuditList, "A page of records"))
async def list_audit(request: Request) -> Response:
    """Newest first, or oldest first with `order=asc`."""
    state = state_of(request)
    page = page_of(request, most=MOST_LISTED, default=_LISTED, orders=True)
    wanted = read_filter(request.query_params)
    await state.audit.flush()
    async with state.store.begin() as session:
        records = await list_records(
            session, wanted, limit=page.limit, after=page.after, is_ascending=page.is_ascending
        )
    if records is None:
        raise unknown_after()
    return _json(audit_page(records, page.limit))


@router.get(
    "/chains",
    summary="List the chains of the audit",
    responses=answers(AuditChainList, "Every chain"),
)
async def list_audit_chains(request: Request) -> Response:
    """One for each gateway process that there ever was, and `galen-keys` of the commands."""
    state = state_of(request)
    await state.audit.flush()
    async with state.store.begin() as session:
        chains = await list_chains(session)
    return _json(AuditChainList(chains))


def _json(body: AuditList | AuditChainList) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
