"""The audit of one gateway process, with a real SQLite file that comes and goes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession

from services.gateway.audit import MOST_KEPT, MOST_UNKNOWN, Asked, AuditLog, MostAMinute
from services.gateway.caller import ANONYMOUS, Caller
from services.gateway.catalogue import CatalogueEntry
from services.gateway.job_store import JobStore
from services.gateway.metrics import GatewayMetrics
from services.gateway.openai_schemas import ChatCompletionRequest, UserMessage
from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, UnavailableError
from services.protocol.messages import (
    AdapterCard,
    ImageRef,
    Message,
    ModelCard,
    Provenance,
    TextPart,
)
from services.store.audit_chain import BEGINNING, AuditRecord, ChainCheck, chained
from services.store.audit_records import AuditFilter, add_records, list_chains, list_records
from services.store.models import AuditRow
from services.store.settings import StoreSettings
from tests.support.waiting import eventually

CANARY = "Canary-Audit-4714"
KEY = "a key of 16 and more"
CARD = ModelCard("m", "fake", 100, 1, frozenset(), frozenset(), provenance=Provenance("base"))


class Audited:
    """An audit and its database, which `break_down` takes away."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.place = folder / "store"
        self.store = JobStore(StoreSettings(dir=self.place))
        self.metrics = GatewayMetrics()
        settings = {"audit_key": KEY, **settings}
        self.log = AuditLog(GatewaySettings(**settings), self.store, self.metrics, "g1")
        self._requests = 0

    def break_down(self) -> None:
        self.place.write_text("a file, where a folder should be")

    def repair(self) -> None:
        self.place.unlink()

    def end(self, asked: Asked | None = None, /, **scope: Any) -> None:
        """A request ends; of nobody known where `galen.caller` is None."""
        self._requests += 1
        route = scope.pop("route", "/v1/chat/completions")
        request_id = f"r{self._requests}"
        found = {"method": "POST", "path": route, "galen.request_id": request_id, **scope}
        if found.setdefault("galen.caller", ANONYMOUS) is None:
            del found["galen.caller"]
        if asked is not None:
            found["galen.asked"] = asked
        self.log.add(found, route, 200, 0.25)

    async def records(self) -> list[AuditRecord]:
        async with self.store.begin() as session:
            wanted = AuditFilter()
            found = await list_records(session, wanted, limit=999, after="", is_ascending=True)
            (chain,) = await list_chains(session)
        check = ChainCheck(chain)
        assert all(check.add(each) for each in found or ()), check.problem
        return found or []

    def lost(self) -> float:
        return self.metrics.registry.get_sample_value("galen_gateway_audit_lost_records_total") or 0

    def left_out(self) -> float | None:
        return self.metrics.registry.get_sample_value("galen_gateway_audit_left_out_records_total")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Audited]]:
    made: list[Audited] = []

    def make_one(**settings: Any) -> Audited:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Audited(folder, **settings))
        return made[-1]

    yield make_one
    for each in made:
        await each.store.close()


Make = Callable[..., Audited]


def asked_of(text: str, *, temperature: float = 1.0, adapter: str = "") -> Asked:
    chat = ChatCompletionRequest("m", [UserMessage(text)], temperature=temperature)
    card = AdapterCard("a", "m:a", is_base_verified=True, fingerprint=adapter) if adapter else None
    asked = Asked(CatalogueEntry(CARD, (), card), chat)
    asked.see((Message("user", (TextPart(text),)),), [ImageRef("f" * 64, 8, 8)])
    return asked


async def test_a_record_says_who_asked_what_of_which_model_and_how_it_ended(
    make: Make,
) -> None:
    audited = make()
    fields = {"prompt_tokens": 7, "completion_tokens": 3, "finish_reason": "stop,length"}
    caller = Caller("clinic", "key_1")
    more: Any = {"galen.caller": caller, "galen.fields": fields}

    audited.end(asked_of(CANARY, adapter="extra"), **more)
    audited.end(None, **{"galen.code": "invalid_json"})
    audited.end(asked_of(CANARY))
    await audited.log.flush()

    first, refused, abandoned = await audited.records()
    assert (first.tenant_id, first.key_id, first.request_id) == ("clinic", "key_1", "r1")
    assert (first.model, first.revision, first.images) == ("m:a", "base+extra", ["f" * 64])
    assert (first.prompt_tokens, first.completion_tokens, first.duration_ms) == (7, 3, 250)
    assert (first.finish_reason, first.code, first.number) == ("stop,length", "", 1)
    assert (refused.tenant_id, refused.code, refused.model) == ("anonymous", "invalid_json", "")
    assert (refused.prompt_hash, refused.parameters_hash) == ("", "")
    assert abandoned.finish_reason == "abandoned"


async def test_the_same_prompt_has_the_same_hash_and_nobody_without_the_key_can_make_it(
    make: Make,
) -> None:
    one, two = make(), make(audit_key="another key of ours")
    for audited in (one, two):
        audited.end(asked_of(CANARY))
        audited.end(asked_of(CANARY, temperature=0.5))
        audited.end(asked_of("other"))
        await audited.log.flush()

    first, second, third = await one.records()
    assert first.prompt_hash == second.prompt_hash != third.prompt_hash
    assert first.parameters_hash == third.parameters_hash != second.parameters_hash
    assert (await two.records())[0].prompt_hash != first.prompt_hash


async def test_what_only_reads_states_is_not_recorded(make: Make) -> None:
    audited = make()
    audited.end(method="GET", route="/v1/models")
    audited.end(method="GET", route="/v1/batches")
    audited.end(method="GET", route="/metrics")
    audited.end(method="GET", route="/v1/files")
    audited.end(method="DELETE", route="/v1/batches")
    await audited.log.flush()

    assert [r.route for r in await audited.records()] == ["/v1/files", "/v1/batches"]


async def test_a_record_names_what_it_was_about(make: Make) -> None:
    audited = make()
    key = f"galen_{'0' * 16}_{'1' * 64}"
    more: Any = {"route": "/v1/admin", "method": "DELETE"}
    made: Any = {"route": "/v1/files", "galen.object": "file-2"}
    audited.end(path="/v1/admin/keys/galen_1", **more)
    audited.end(path=f"/v1/admin/keys/{key}", **more)
    audited.end(path="/v1/files", **made)
    audited.end(asked_of("a"))
    await audited.log.close()

    assert [r.object for r in await audited.records()] == ["galen_1", "", "file-2", ""]
    files = b"".join(f.read_bytes() for f in audited.place.glob("galen.db*"))
    assert key.rpartition("_")[2].encode() not in files


async def test_of_requests_of_nobody_known_some_a_minute_are_recorded(make: Make) -> None:
    audited = make()
    stranger: Any = {"galen.caller": None, "galen.code": "invalid_api_key"}
    for _ in range(MOST_UNKNOWN + 5):
        audited.end(**stranger)
    audited.end()
    await audited.log.flush()

    codes = [r.code for r in await audited.records()]
    assert codes == ["invalid_api_key"] * MOST_UNKNOWN + [""]
    assert (audited.left_out(), audited.lost()) == (5, 0)


def test_a_minute_later_there_is_room_again() -> None:
    minute = MostAMinute(2)

    assert [minute.lets(now_s) for now_s in (0.0, 30.0, 59.9, 60.0, 89.9, 90.0)] == [
        True, True, False, True, False, True,
    ]  # fmt: skip


async def test_records_outlive_a_database_that_refuses_them(make: Make) -> None:
    audited = make(audit="required")
    audited.end()
    await audited.log.flush()
    async with audited.store.begin() as session:
        await session.execute(text("CREATE UNIQUE INDEX ux_all ON audit (tenant_id)"))
    audited.end()
    await audited.log.flush()  # an IntegrityError
    with pytest.raises(UnavailableError):
        audited.log.check()

    async with audited.store.begin() as session:
        await session.execute(text("DROP INDEX ux_all"))
    await audited.log.flush()

    audited.log.check()
    assert [r.request_id for r in await audited.records()] == ["r1", "r2"]


async def test_records_wait_for_a_database_that_is_away_and_come_in_order(make: Make) -> None:
    audited = make()
    audited.break_down()
    audited.end(asked_of("a"))
    await audited.log.flush()
    audited.end(asked_of("b"))
    await audited.log.flush()
    assert audited.metrics.registry.get_sample_value("galen_gateway_audit_waiting_records") == 2

    audited.repair()
    await audited.log.flush()

    assert [r.request_id for r in await audited.records()] == ["r1", "r2"]
    assert audited.metrics.registry.get_sample_value("galen_gateway_audit_waiting_records") == 0


async def test_memory_is_bounded_and_what_is_lost_is_counted(make: Make) -> None:
    audited = make()
    audited.break_down()
    for _ in range(MOST_KEPT + 3):
        audited.end()

    assert audited.lost() == 3
    audited.log.check()  # best effort: requests go on


async def test_required_refuses_requests_while_they_cannot_be_recorded(make: Make) -> None:
    audited = make(audit="required")
    audited.break_down()
    await audited.log.start()

    with pytest.raises(UnavailableError) as caught:
        audited.log.check()
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.AUDIT_UNAVAILABLE, 5.0)

    audited.repair()
    await audited.log.flush()
    audited.log.check()


async def test_required_refuses_requests_when_memory_is_full(make: Make) -> None:
    audited = make(audit="required")
    await audited.log.start()
    for _ in range(MOST_KEPT):
        audited.end()

    with pytest.raises(UnavailableError):
        audited.log.check()


async def test_off_records_nothing(make: Make) -> None:
    audited = make(audit="off")
    audited.end(asked_of("a"))
    await audited.log.close()

    async with audited.store.begin() as session:
        assert await list_chains(session) == []


async def test_no_text_of_a_request_reaches_the_database(make: Make) -> None:
    audited = make()
    audited.end(asked_of(CANARY))
    await audited.log.close()
    await audited.store.close()

    files = b"".join(f.read_bytes() for f in audited.place.glob("galen.db*"))
    assert b"anonymous" in files  # it is written, and one can find words in it
    assert CANARY.encode() not in files


async def test_old_records_go_and_the_chain_still_holds(make: Make) -> None:
    audited = make(audit_days=1)
    for _ in range(3):
        audited.end()
    await audited.log.flush()
    async with audited.store.begin() as session:  # two of them are of long ago
        old = [chained(record, "") for record in await all_records(session)]
        await session.execute(delete(AuditRow))
        aged = [msgspec.structs.replace(r, at_ms=1000 * r.number) for r in old[:2]]
        rows, previous = list[AuditRecord](), BEGINNING
        for record in [*aged, old[2]]:
            rows.append(chained(record, previous))
            previous = rows[-1].hash
        await add_records(session, rows)

    writing = asyncio.create_task(audited.log.write_forever())

    async def is_swept() -> bool:
        return [r.number for r in await audited.records()] == [3]

    await eventually(is_swept, 5.0, "the end of what is too old")
    writing.cancel()


async def all_records(session: AsyncSession) -> list[AuditRecord]:
    return await list_records(session, AuditFilter(), limit=9, after="", is_ascending=True) or []
