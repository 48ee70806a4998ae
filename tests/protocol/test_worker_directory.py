"""Leases, and what happens to a worker's requests when it is gone."""

import pytest

from services.protocol import keys
from services.protocol.messages import Lost
from services.protocol.request_queue import FencedError
from services.protocol.worker_directory import ALL_SUSPECT
from tests.protocol.parties import GATEWAY, MODEL, Wire, record, request


async def _two_running(wire: Wire, *, strikes: int = 0) -> None:
    await wire.register("w1")
    for name in ("r1", "r2"):
        await wire.queue.enqueue(request(name, strikes=strikes))
    await wire.claim("w1")


async def _lost(wire: Wire) -> dict[str, Lost]:
    return {event.request_id: event for event in await wire.events() if isinstance(event, Lost)}


async def test_registered_worker_is_listed_until_its_lease_is_taken(wire: Wire):
    await wire.register("w1", "w2")
    assert {r.worker_id for r in await wire.directory.workers()} == {"w1", "w2"}
    await wire.let_lease_end("w1")
    assert await wire.directory.reap_expired() == 1
    assert [r.worker_id for r in await wire.directory.workers()] == ["w2"]


async def test_model_is_remembered_after_its_last_worker(wire: Wire):
    await wire.register("w1")
    await wire.directory.report_death("w1", "engine_died")
    assert [r.model.id for r in await wire.directory.models_seen()] == [MODEL]


async def test_renewal_keeps_a_lease_and_cannot_bring_one_back(wire: Wire):
    await wire.register("w1")
    await wire.let_lease_end("w1")
    await wire.directory.renew(record("w1"))
    assert await wire.directory.reap_expired() == 0
    await wire.directory.report_death("w1", "engine_died")
    with pytest.raises(FencedError):
        await wire.directory.renew(record("w1"))
    assert await wire.client.get(keys.FENCED_RENEWALS) == b"1"
    assert await wire.directory.workers() == []


async def test_unreadable_record_is_left_out(wire: Wire):
    await wire.register("w1", "w2")
    await wire.client.hset(keys.WORKERS, "w1", b"\xc1")
    assert [r.worker_id for r in await wire.directory.workers()] == ["w2"]


async def test_expired_lease_gives_every_request_a_strike_and_no_suspicion(wire: Wire):
    await _two_running(wire)
    await wire.let_lease_end("w1")
    await wire.directory.reap_expired()
    lost = await _lost(wire)
    assert lost == {
        name: Lost(name, 1, "lease_expired", strike=True, suspect=False, final=False)
        for name in ("r1", "r2")
    }
    assert await wire.leftovers() == {}


async def test_only_named_suspects_get_a_strike(wire: Wire):
    await _two_running(wire)
    await wire.directory.report_death("w1", "engine_crashed", ["r2"])
    lost = await _lost(wire)
    assert (lost["r1"].strike, lost["r1"].suspect) == (False, False)
    assert (lost["r2"].strike, lost["r2"].suspect) == (True, True)


async def test_all_may_be_suspect(wire: Wire):
    await _two_running(wire)
    await wire.directory.report_death("w1", "engine_crashed", [ALL_SUSPECT])
    assert all(lost.strike and lost.suspect for lost in (await _lost(wire)).values())


async def test_handing_back_costs_no_strike(wire: Wire):
    await _two_running(wire, strikes=1)
    await wire.directory.report_death("w1", "handed_back")
    assert not any(lost.strike or lost.final for lost in (await _lost(wire)).values())
    assert await wire.dead_letters() == []


async def test_delivery_limit_ends_in_the_dead_letters(wire: Wire):
    await _two_running(wire, strikes=keys.DELIVERY_LIMIT - 1)
    await wire.directory.report_death("w1", "engine_crashed", ["r1"])
    lost = await _lost(wire)
    assert lost["r1"].final
    assert not lost["r2"].final
    letters = await wire.dead_letters()
    assert [letter[b"request_id"] for letter in letters] == [b"r1"]
    assert letters[0][b"reason"] == b"engine_crashed"
    assert letters[0].keys() == {
        b"request_id",
        b"attempt",
        b"reason",
        b"worker",
        b"work",
        b"version",
    }
    assert await wire.leftovers() == {}


async def test_second_report_of_a_death_changes_nothing(wire: Wire):
    await _two_running(wire)
    await wire.directory.report_death("w1", "engine_died")
    await wire.directory.report_death("w1", "engine_died")
    await wire.let_lease_end("w1")
    await wire.directory.reap_expired()
    assert len(await wire.events()) == 2


async def test_death_of_one_worker_touches_no_other(wire: Wire):
    await _two_running(wire)
    await wire.register("w2")
    await wire.queue.enqueue(request("r3"))
    await wire.claim("w2")
    await wire.directory.report_death("w1", "engine_died")
    assert set(await _lost(wire)) == {"r1", "r2"}
    assert await wire.leftovers() == {"entries": 1, "running": 1, "inflight": 1}


async def test_each_gateway_hears_of_its_own_requests(wire: Wire):
    await wire.directory.gateway_beat("gateway-2")
    await wire.register("w1")
    await wire.queue.enqueue(request("r1"))
    await wire.queue.enqueue(request("r2", gateway="gateway-2"))
    await wire.queue.enqueue(request("r3", gateway="gateway-3"))
    await wire.directory.gateway_beat("gateway-3")
    await wire.claim("w1")
    await wire.directory.gateway_leave("gateway-3")
    await wire.directory.report_death("w1", "engine_died")
    assert {e.request_id for e in await wire.events()} >= {"r1"}
    assert [e.request_id for e in await wire.events("gateway-2")] == ["r2"]
    assert await wire.events("gateway-3") == []
    assert await wire.leftovers() == {}


async def test_heartbeat_says_whether_the_lease_had_lived(wire: Wire):
    pulse = await wire.directory.gateway_beat("gateway-2")
    assert not pulse.lease_lived
    assert (await wire.directory.gateway_beat("gateway-2")).lease_lived
    await wire.client.delete(keys.gateway_lease("gateway-2"))
    again = await wire.directory.gateway_beat("gateway-2")
    assert not again.lease_lived
    assert again.epoch == pulse.epoch


async def test_epoch_changes_with_the_data(wire: Wire):
    epoch = (await wire.directory.gateway_beat(GATEWAY)).epoch
    assert (await wire.directory.gateway_beat("gateway-2")).epoch == epoch
    await wire.client.flushdb()
    assert (await wire.directory.gateway_beat(GATEWAY)).epoch != epoch


async def test_heartbeat_renews_what_belongs_to_the_gateway(wire: Wire):
    await wire.queue.enqueue(request("r1"))
    await wire.client.xadd(keys.events(GATEWAY), {"b": b""})
    await wire.directory.gateway_beat(GATEWAY)
    for key in (keys.events(GATEWAY), keys.inflight(GATEWAY)):
        assert 0 < await wire.client.pttl(key) <= keys.GATEWAY_STATE_MS
    assert 0 < await wire.client.pttl(keys.gateway_lease(GATEWAY)) <= keys.GATEWAY_LEASE_MS


async def test_gateway_that_leaves_removes_what_is_its_own(wire: Wire):
    await wire.queue.enqueue(request("r1"))
    await wire.directory.gateway_leave(GATEWAY)
    for key in (keys.events(GATEWAY), keys.inflight(GATEWAY), keys.gateway_lease(GATEWAY)):
        assert await wire.client.exists(key) == 0
    await wire.register("w1")
    assert await wire.claim_ids("w1") == []
    assert await wire.leftovers() == {}
