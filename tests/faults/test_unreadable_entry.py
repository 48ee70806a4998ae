"""Entries that no worker can read: put aside, told to their gateway, and the worker goes on."""

import msgspec
import pytest

from services.protocol import keys
from services.protocol.messages import PROTOCOL_VERSION, Failed
from tests.protocol.parties import Wire, request
from tests.support.client import Client
from tests.support.load import Load, assert_all_exact
from tests.support.stack import MODEL, Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_GATEWAY = "gateway-of-the-future"


async def test_request_of_another_protocol_version_is_buried_and_the_worker_goes_on(
    stack: Stack, client: Client
):
    letters_before = len(stack.dead_letters())
    wire = Wire(stack.redis_url)
    await wire.directory.gateway_beat(_GATEWAY)
    newer = request("from-the-future", gateway=_GATEWAY, model=MODEL)
    newer = msgspec.structs.replace(newer, version=PROTOCOL_VERSION + 1)
    await wire.queue.enqueue(newer)
    await eventually(lambda: len(stack.dead_letters()) > letters_before, 5.0, "a dead letter")
    letter = stack.dead_letters()[-1]
    events = await wire.events(_GATEWAY)
    await wire.directory.gateway_leave(_GATEWAY)
    await wire.close()
    assert letter["request_id"] == "from-the-future"
    assert letter["reason"] == "protocol_mismatch"
    assert [(type(e), e.request_id) for e in events] == [(Failed, "from-the-future")]
    async with Load(client, 12) as load:
        assert_all_exact(await load.ended())


async def test_entry_that_is_no_request_is_buried_and_the_worker_goes_on(
    stack: Stack, client: Client
):
    letters_before = len(stack.dead_letters())
    async with Load(client, 12) as load:
        await eventually(lambda: load.num_streaming > 0, 10.0, "streams")
        work = keys.work(MODEL, "interactive", "noise")
        stack.redis.xgroup_create(work, keys.GROUP, id="0", mkstream=True)
        stack.redis.xadd(work, {"request_id": "x", "payload": b"\xc1"})
        stack.redis.zadd(keys.turns(MODEL, "interactive"), {"noise": 0})
        records = await load.ended()
    await eventually(lambda: len(stack.dead_letters()) > letters_before, 5.0, "a dead letter")
    assert stack.dead_letters()[-1]["reason"] == "malformed_entry"
    assert_all_exact(records)
