"""A request that Redis let in, and whose gateway did not hear of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway.access.expected_tokens import ExpectedTokens
from services.gateway.access.key_ring import KeyRing
from services.gateway.access.limiter import Limiter
from services.gateway.access.meter import Meter
from services.gateway.access.usage import UsageLedger
from services.gateway.caller import Caller
from services.gateway.job_store import JobStore
from services.protocol import keys
from services.protocol.errors import UnavailableError
from services.protocol.key_limits import KeyLimits, LimitBook
from services.protocol.wire import RedisWire
from services.store.settings import StoreSettings
from tests.support.waiting import eventually

BUSY = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local ends = now() + 400
while now() < ends do end
return 1
"""
KEY = "galen_k"


def meter_of(wire: RedisWire, folder: Path) -> Meter:
    settings = StoreSettings(dir=folder)
    store = JobStore(settings)
    usage = UsageLedger(store, KeyRing(store, settings))
    return Meter(Limiter(LimitBook(wire), store), usage, request_timeout_s=600.0)


@pytest.fixture
async def impatient(redis_url: str) -> AsyncIterator[RedisWire]:
    wire = RedisWire(redis_url, timeout_s=0.1)
    await wire.execute_command("PING")
    yield wire
    await wire.aclose()


async def enter(meter: Meter, request_id: str, key_id: str = KEY) -> None:
    caller = Caller("t", key_id=key_id, limits=KeyLimits(5, 1000, 1))
    await meter.begin({"galen.request_id": request_id}, caller, "m", ExpectedTokens(10, 20))


async def test_a_place_that_was_taken_unheard_is_free_again(
    redis_wire: RedisWire, impatient: RedisWire, tmp_path: Path
) -> None:
    meter, patient = meter_of(impatient, tmp_path), meter_of(redis_wire, tmp_path)
    await enter(patient, "r0", "galen_other")  # Redis knows the script from now on
    busy = asyncio.ensure_future(redis_wire.execute_command("EVAL", BUSY, 0))  # sent at once

    with pytest.raises(UnavailableError):
        await enter(meter, "r1")
    await busy

    async def was_taken_and_is_free() -> bool:
        buckets, running = keys.limit_buckets(KEY), keys.limit_running(KEY)
        was_taken = await redis_wire.execute_command("HEXISTS", buckets, "requests.at")
        return was_taken and not await redis_wire.execute_command("ZCARD", running)

    await eventually(was_taken_and_is_free, 10.0, "the place of a request that was not heard of")
    await enter(patient, "r2")
