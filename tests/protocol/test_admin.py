"""Orders to workers and hosts, and what unloading a model does to its queue."""

import asyncio

import pytest

from services.protocol import keys
from services.protocol.admin import (
    AdminOrders,
    Card,
    HostedModel,
    HostOrders,
    HostRecord,
    HostReply,
    LoadModel,
    UnloadModel,
)
from services.protocol.errors import ErrorCode
from services.protocol.messages import Failed
from services.protocol.request_queue import Candidate, UnloadedError, WorkerOrder
from tests.protocol.parties import GATEWAY, MODEL, Wire, request

HOST = "box-1a2b3c"
RECORD = HostRecord(
    HOST,
    "box",
    64 << 30,
    60 << 30,
    (Card(0, "a card", 24 << 30, 23 << 30),),
    (HostedModel("m", "fake", "one worker", "serving", 1, (0,)),),
)


@pytest.fixture
def admin(wire: Wire) -> AdminOrders:
    return AdminOrders(wire.commands)


@pytest.fixture
async def agent(wire: Wire) -> HostOrders:
    orders = HostOrders(wire.commands, wire.blocking, HOST)
    await orders.renew(RECORD)
    return orders


@pytest.mark.parametrize(
    "order", [WorkerOrder("cordon"), WorkerOrder("uncordon"), WorkerOrder("drain", 12.5)]
)
async def test_worker_hears_its_order(wire: Wire, admin: AdminOrders, order: WorkerOrder):
    await wire.register("w1")
    assert await admin.send_to_worker("w1", order)
    assert await wire.worker_queue().next_control("w1") == order


async def test_worker_without_a_lease_gets_no_order(wire: Wire, admin: AdminOrders):
    await wire.register("w1")
    await wire.let_lease_end("w1")
    assert not await admin.send_to_worker("w1", WorkerOrder("drain"))
    assert not await admin.send_to_worker("nobody", WorkerOrder("drain"))
    assert await wire.client.llen(keys.control("w1")) == 0


@pytest.mark.parametrize("line", ["1||cordon:0", "2||explode:0"])
async def test_order_of_another_version_or_kind_is_passed_over(wire: Wire, line: str):
    await wire.client.rpush(keys.control("w1"), line)
    assert await wire.worker_queue().next_control("w1") is None


async def test_host_is_listed_while_its_lease_lives(
    wire: Wire, admin: AdminOrders, agent: HostOrders
):
    assert await admin.hosts() == [RECORD]
    await wire.client.zadd(keys.HOST_LEASES, {HOST: 1})
    assert await admin.hosts() == []
    assert await wire.client.hlen(keys.HOSTS) == 0


async def test_host_that_leaves_is_not_listed(admin: AdminOrders, agent: HostOrders):
    await agent.leave()
    assert await admin.hosts() == []
    assert await admin.send_to_host(HOST, UnloadModel("m", 1.0), 1.0) is None


async def test_order_to_a_host_comes_back_with_its_reply(admin: AdminOrders, agent: HostOrders):
    load = LoadModel("m", "/models/m", workers=2, quantization="bnb-nf4")
    sending = asyncio.create_task(admin.send_to_host(HOST, load, 5.0))
    order = await agent.next_order()
    assert order is not None
    assert order.order == load
    await agent.reply(order.order_id, HostReply(refusal="no room"))
    assert await sending == HostReply(refusal="no room")


async def test_agent_that_does_not_reply_is_a_timeout(admin: AdminOrders, agent: HostOrders):
    with pytest.raises(TimeoutError):
        await admin.send_to_host(HOST, UnloadModel("m", 1.0), 0.1)


async def test_unreadable_host_and_order_are_passed_over(
    wire: Wire, admin: AdminOrders, agent: HostOrders
):
    await wire.client.hset(keys.HOSTS, "odd", b"\xc1")
    await wire.client.zadd(keys.HOST_LEASES, {"odd": 10**15})
    await wire.client.rpush(keys.orders(HOST), b"\xc1")
    assert await admin.hosts() == [RECORD]
    assert await agent.next_order() is None


async def test_unloading_ends_what_waits_in_every_lane_and_spares_what_runs(
    wire: Wire, admin: AdminOrders
):
    await wire.register("w1")
    await wire.queue.enqueue(request("running"))
    assert await wire.claim_ids("w1") == ["running"]
    await wire.queue.enqueue(request("one"))
    await wire.queue.enqueue(request("two", tenant="t2", lane="batch"))
    await wire.queue.enqueue(request("three", attempt=2, alone=True))
    await wire.queue.enqueue(request("other", model="another"))

    assert await admin.unload_model(MODEL) == 3

    ended = await wire.events()
    assert {(e.request_id, e.attempt) for e in ended} == {("one", 1), ("two", 1), ("three", 2)}
    assert all(isinstance(e, Failed) and e.code == ErrorCode.MODEL_UNLOADED for e in ended)
    assert await wire.finish("w1", "running") == "OK"
    assert await wire.leftovers() == {"entries": 1, "inflight": 1, "depth": 1}  # of the other


async def test_unloading_ends_what_waits_for_one_worker(wire: Wire, admin: AdminOrders):
    await wire.register("w1", "w2")
    ranked = [Candidate(worker, 8) for worker in ("w1", "w2")]
    for each in ranked:
        await wire.claim(each.worker_id)
    await wire.queue.enqueue(request("one"), candidates=ranked)
    await wire.queue.enqueue(request("two", lane="batch"), candidates=ranked)
    assert await wire.client.smembers(keys.affine_workers(MODEL)) == {b"w1"}

    assert await admin.unload_model(MODEL) == 2

    assert {event.request_id for event in await wire.events()} == {"one", "two"}
    assert await wire.client.exists(keys.affine_workers(MODEL)) == 0
    assert await wire.claim_ids("w1") == []
    assert await wire.leftovers() == {}


async def test_nothing_can_be_sent_to_an_unloaded_model_until_it_is_served_again(
    wire: Wire, admin: AdminOrders
):
    await wire.register("w1")
    await admin.unload_model(MODEL)
    assert await wire.directory.unloaded() == {MODEL}
    assert await wire.directory.models_seen() == []
    with pytest.raises(UnloadedError):
        await wire.queue.enqueue(request("late"))
    assert await wire.leftovers() == {}

    await wire.register("w2")
    assert await wire.directory.unloaded() == frozenset()
    await wire.queue.enqueue(request("again"))
    assert await wire.claim_ids("w2") == ["again"]


async def test_unloading_does_not_write_to_a_gateway_that_is_gone(wire: Wire, admin: AdminOrders):
    await wire.queue.enqueue(request("r1"))
    await wire.directory.gateway_leave(GATEWAY)
    assert await admin.unload_model(MODEL) == 1
    assert await wire.events() == []
    assert await wire.leftovers() == {}
