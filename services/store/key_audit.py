"""What commands that make and revoke keys on the database itself leave in the audit.

They have one chain, which goes on for ever: a command has no process of its own that lasts.
What does *not* live here: requests, which gateways record (`gateway/audit.py`).
"""

from typing import Literal

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.store.audit_chain import BEGINNING, AuditRecord, chained
from services.store.clock import now_ms
from services.store.models import AuditAnchorRow, AuditRow

CHAIN = "galen-keys"
METHOD = "CLI"
_LOCK = 0x47414C4B
"""Of PostgreSQL: any number but that of the migrations, the same in all our processes."""
_DONE = 200

Command = Literal[
    "galen keys create",
    "galen keys revoke",
    "galen keys rotate",
    "galen up create",
    "galen up revoke",
]


async def note_command(
    session: AsyncSession, command: Command, tenant_id: str, key_name: str
) -> None:
    """Record a command in the transaction of its work, and at the end of it.

    Another command waits until the transaction is over: the next record needs this one's hash.

    Args:
        key_name: the id of the key; of a rotation `OLD/rotate/NEW`, as the gateway has it.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite has but one writer
        await session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    number, hash_, at_ms = await _end_of_chain(session)
    moment = await session.scalar(select(now_ms())) or 0
    record = AuditRecord(
        chain=CHAIN,
        number=number + 1,
        at_ms=max(at_ms, moment),
        request_id="",
        tenant_id=tenant_id,
        key_id=None,
        method=METHOD,
        route=command,
        model="",
        revision="",
        images=[],
        prompt_hash="",
        parameters_hash="",
        status=_DONE,
        code="",
        finish_reason="",
        prompt_tokens=0,
        completion_tokens=0,
        duration_ms=0,
        object=key_name,
    )
    await session.execute(insert(AuditRow), [msgspec.structs.asdict(chained(record, hash_))])


async def _end_of_chain(session: AsyncSession) -> tuple[int, str, int]:
    """Return number, hash and time of the last record, of which retention may have left an anchor.

    The anchor is asked for last: it is there before its record is gone.
    """
    last = await session.scalar(
        select(AuditRow).where(AuditRow.chain == CHAIN).order_by(AuditRow.number.desc()).limit(1)
    )
    if last is not None:
        return last.number, last.hash, last.at_ms
    anchor = await session.scalar(select(AuditAnchorRow).where(AuditAnchorRow.chain == CHAIN))
    return (0, BEGINNING, 0) if anchor is None else (anchor.number, anchor.hash, 0)
