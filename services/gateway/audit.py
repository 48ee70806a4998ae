"""What the gateway records of each request: kept in memory, written every second, never waited for.

A request costs an entry in a list. Hashes are made in a thread, rows go to the database in batches,
and a batch that may or may not have been written is written again without being doubled. What does
*not* live here: the chain of hashes and the table (`store/audit_chain.py`, `audit_records.py`).
"""

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.types import Scope

from services.gateway.audit_objects import kept_object, object_of
from services.gateway.caller import ANONYMOUS, Caller
from services.gateway.catalogue import CatalogueEntry
from services.gateway.job_store import STORE_FAILED, JobStore, unbroken
from services.gateway.metrics import GatewayMetrics
from services.gateway.openai_schemas import ChatCompletionRequest
from services.gateway.settings import GatewaySettings
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, UnavailableError
from services.protocol.messages import ImageRef, Message
from services.store.audit_chain import BEGINNING, AuditRecord, chained
from services.store.audit_records import add_records, remove_older

_log = structlog.get_logger()

MOST_KEPT = 20_000
"""Records in memory while the database is away: about 20 MB, and their prompts until the next
second."""
MOST_UNKNOWN = 60
"""Records a minute of requests of which nobody knows whose they are: each is kept for ever."""
_MINUTE_S = 60.0
_WRITE_EVERY_S = 1.0
BATCH = 500
_LONGEST_WRITE_S = 20.0
_LAST_WRITES_S = 5.0
"""At the gateway's end."""
_RETENTION_EVERY_S = 3600.0
_DAY_MS = 86_400_000
_READ_ROUTES = frozenset({"/v1/files", "/v1/feedback", "/v1/admin"})
"""Of others, what only reads is not recorded: lists of models and states of jobs, asked often."""


class Asked:
    """What is known of a request once it is admitted.

    Args:
        chat: of which all but the conversation is kept.
    """

    __slots__ = ("chat", "entry", "messages", "refs")

    def __init__(self, entry: CatalogueEntry, chat: ChatCompletionRequest) -> None:
        self.entry = entry
        self.chat = msgspec.structs.replace(chat, messages=[])
        self.messages: Sequence[Message] = ()
        self.refs: Sequence[ImageRef] = ()

    def see(self, messages: Sequence[Message], refs: Sequence[ImageRef]) -> None:
        """Keep the conversation as the model gets it, until it is hashed."""
        self.messages, self.refs = messages, refs


class MostAMinute:
    """Lets so many through in any minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._let: deque[float] = deque(maxlen=most)

    def lets(self, now_s: float) -> bool:
        """Whether one more may pass now, by a clock that does not run backwards."""
        if len(self._let) == self._most and now_s - self._let[0] < _MINUTE_S:
            return False
        self._let.append(now_s)
        return True


class _Ended(NamedTuple):
    """A request that is over.

    Args:
        images: keys of those that were shown without being asked about.
        about: the file, key, model or worker that it was about; "": none, or none to be kept.
    """

    at_ms: int
    request_id: str
    caller: Caller
    method: str
    route: str
    about: str
    asked: Asked | None
    images: Sequence[str]
    status: int
    code: str
    fields: dict[str, Any]
    duration_s: float


class AuditLog:
    """The audit of one gateway process; `write_forever` runs while it lives.

    Args:
        chain: name of its chain, of which there never was one.
    """

    def __init__(
        self, settings: GatewaySettings, store: JobStore, metrics: GatewayMetrics, chain: str
    ) -> None:
        self._mode = settings.audit
        self._days = settings.audit_days
        key = settings.audit_key
        self._key = secrets.token_bytes(32) if key is None else key.get_secret_value().encode()
        self._store = store
        self._metrics = metrics
        self._chain = chain
        self._ended: list[_Ended] = []
        self._chained: list[AuditRecord] = []
        self._number, self._hash, self._at_ms = 0, BEGINNING, 0
        self._is_writable = False
        self._is_room_told = True
        self._unknown = MostAMinute(MOST_UNKNOWN)
        self._writing = asyncio.Lock()

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self._mode != "off"

    def check(self) -> None:
        """Raise UnavailableError where a request must not run because it could not be recorded."""
        if self._mode == "required" and not (self._is_writable and self._has_room):
            raise UnavailableError(
                ErrorCode.AUDIT_UNAVAILABLE,
                "requests must be recorded here, and the database is not reachable at the moment",
                retry_after_s=5.0,
            )

    def add(self, scope: Scope, route: str, status: int, duration_s: float) -> None:
        """Record a request that is over, if requests of its kind are recorded."""
        is_read = scope["method"] == "GET" and route not in _READ_ROUTES
        if self._mode == "off" or is_read or not route.startswith("/v1/"):
            return
        if "galen.caller" not in scope and not self._unknown.lets(time.monotonic()):
            self._metrics.audit_left_out.inc()
            return
        if not self._has_room:
            self._metrics.audit_lost.inc()
            if self._is_room_told:
                self._is_room_told = False
                _log.error("audit.full", kept=MOST_KEPT)
            return
        self._at_ms = max(self._at_ms, int(datetime.now(UTC).timestamp() * 1000))
        ended = _Ended(
            self._at_ms,
            scope["galen.request_id"],
            scope.get("galen.caller", ANONYMOUS),
            scope["method"][:16],
            route,
            kept_object(scope.get("galen.object") or object_of(route, scope["path"])),
            scope.get("galen.asked"),
            scope.get("galen.images", ()),
            status,
            scope.get("galen.code") or "",
            scope.get("galen.fields", {}),
            duration_s,
        )
        self._ended.append(ended)

    async def start(self) -> None:
        """Find out whether records can be written; the gateway starts all the same."""
        if self._mode == "required":
            await self._try_to_write()

    async def write_forever(self) -> None:
        """Write what has come, and remove what is too old; cancelled at the gateway's end."""
        swept = -_RETENTION_EVERY_S
        while self.is_on:
            await unbroken(self.flush())
            if self._days and time.monotonic() - swept > _RETENTION_EVERY_S and self._is_writable:
                swept = time.monotonic()
                await unbroken(self._sweep())
            await asyncio.sleep(_WRITE_EVERY_S)

    async def flush(self) -> None:
        """Write what has come; it stays for the next time where that is not possible."""
        if self._ended or self._chained or (self._mode == "required" and not self._is_writable):
            await self._try_to_write()

    async def close(self) -> None:
        """Write the last records, and tell where the chain ends, in a place that is not its own."""
        if not self.is_on:
            return
        try:
            async with asyncio.timeout(_LAST_WRITES_S):
                await self.flush()
        except TimeoutError:
            _log.error("audit.last.records.late")
        lost = len(self._ended) + len(self._chained)
        self._metrics.audit_lost.inc(lost)
        _log.info(
            "audit.ended", chain=self._chain, number=self._number, hash=self._hash, unwritten=lost
        )

    @property
    def _has_room(self) -> bool:
        return len(self._ended) + len(self._chained) < MOST_KEPT

    async def _try_to_write(self) -> None:
        async with self._writing:
            try:
                while self._ended:
                    await self._chain_some()
                async with asyncio.timeout(_LONGEST_WRITE_S):
                    await self._write()
            except (*STORE_FAILED, TimeoutError) as error:
                if self._is_writable:
                    cause = type(error).__name__
                    _log.error("audit.away", kept=len(self._chained), cause=cause)
                self._is_writable = False
            else:
                self._is_writable = self._is_room_told = True
            self._metrics.audit_waiting.set(len(self._ended) + len(self._chained))

    async def _chain_some(self) -> None:
        """Turn the oldest requests into records; a cancelled call has changed nothing."""
        some = self._ended[:BATCH]
        records = await in_thread(lambda: self._records(some))
        del self._ended[: len(some)]
        self._chained += records
        self._number, self._hash = records[-1].number, records[-1].hash

    async def _write(self) -> None:
        if not self._chained:
            async with self._store.begin():  # whether it is there
                return
        while some := self._chained[:BATCH]:
            async with self._store.begin() as session:
                await add_records(session, some)
            del self._chained[: len(some)]

    def _records(self, ended: Sequence[_Ended]) -> list[AuditRecord]:
        previous, records = self._hash, list[AuditRecord]()
        for number, each in enumerate(ended, self._number + 1):
            record = chained(self._record(each, number), previous)
            records.append(record)
            previous = record.hash
        return records

    def _record(self, ended: _Ended, number: int) -> AuditRecord:
        asked, fields = ended.asked, ended.fields
        finish = str(fields.get("finish_reason", ""))
        if asked is not None and not finish and not ended.code:
            finish = "abandoned"
        return AuditRecord(
            chain=self._chain,
            number=number,
            at_ms=ended.at_ms,
            request_id=ended.request_id,
            tenant_id=ended.caller.tenant_id,
            key_id=ended.caller.key_id,
            method=ended.method,
            route=ended.route,
            model="" if asked is None else asked.entry.id,
            revision="" if asked is None else _revision(asked.entry),
            images=list(ended.images) if asked is None else [ref.sha256 for ref in asked.refs],
            prompt_hash=self._keyed(b"prompt", asked.messages) if asked and asked.messages else "",
            parameters_hash="" if asked is None else self._keyed(b"parameters", asked.chat),
            status=ended.status,
            code=ended.code,
            finish_reason=finish,
            prompt_tokens=fields.get("prompt_tokens", 0),
            completion_tokens=fields.get("completion_tokens", 0),
            duration_ms=round(ended.duration_s * 1000),
            object=ended.about,
        )

    def _keyed(self, kind: bytes, value: object) -> str:
        """Return a hash that nobody without the key can try texts against."""
        text = kind + b"\0" + msgspec.msgpack.encode(value)
        return hmac.digest(self._key, text, "sha256").hex()

    async def _sweep(self) -> None:
        before_ms = int(datetime.now(UTC).timestamp() * 1000) - self._days * _DAY_MS
        removed = 0
        try:
            while True:
                async with self._store.begin() as session:
                    taken = await remove_older(session, before_ms)
                if not taken:
                    break
                removed += taken
        except STORE_FAILED as error:  # the next hour goes on
            _log.warning("audit.not.removed", cause=type(error).__name__)
        if removed:
            _log.info("audit.removed", records=removed, days=self._days)


def _revision(entry: CatalogueEntry) -> str:
    base = entry.card.provenance.checkpoint_fingerprint
    return base if entry.adapter is None else f"{base}+{entry.adapter.fingerprint}"
