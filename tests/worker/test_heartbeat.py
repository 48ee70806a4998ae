"""When a worker gives its lease up, and how it begins again; on a real Redis that can be away."""

from dataclasses import dataclass

import pytest
import redis.asyncio as aioredis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.protocol import keys
from services.protocol.messages import ModelCard, WorkerRecord, WorkerState
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory
from services.worker import heartbeat as heartbeat_module
from services.worker.heartbeat import Heartbeat
from services.worker.progress_page import ProgressPage, StepLimits


class CutOffDirectory(WorkerDirectory):
    """The real directory, behind a network that can be cut."""

    is_away = False

    async def renew(self, record: WorkerRecord) -> None:
        if self.is_away:
            raise RedisConnectionError("cut off")
        await super().renew(record)


@dataclass
class Beating:
    """A heartbeat and what it did."""

    heartbeat: Heartbeat
    directory: CutOffDirectory
    page: ProgressPage
    fenced: list[str]


@pytest.fixture
def limits() -> StepLimits:
    return StepLimits(8.0, 60.0)


@pytest.fixture
def beating(redis_wire: RedisWire, limits: StepLimits) -> Beating:
    directory = CutOffDirectory(redis_wire)
    page = ProgressPage.create()
    fenced: list[str] = []
    incarnation = "worker-1"

    def describe(state: WorkerState) -> WorkerRecord:
        card = ModelCard("m", "fake", 100, 0, frozenset(), frozenset())
        return WorkerRecord(incarnation, card, state, 4, 0, 0)

    def on_fenced() -> None:
        nonlocal incarnation
        fenced.append(incarnation)
        incarnation = f"worker-{len(fenced) + 1}"

    heartbeat = Heartbeat(directory, page, limits, describe, on_fenced)
    return Beating(heartbeat, directory, page, fenced)


async def test_short_outage_costs_a_worker_nothing(beating: Beating) -> None:
    await beating.heartbeat.begin()
    beating.directory.is_away = True
    await beating.heartbeat.renew()
    beating.directory.is_away = False
    await beating.heartbeat.renew()
    assert beating.fenced == []


async def test_worker_that_cannot_reach_redis_fences_itself_and_comes_back(
    beating: Beating, redis_client: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys.LEASE_MS / 1000 + 2.0 == heartbeat_module.SELF_FENCE_S
    monkeypatch.setattr(heartbeat_module, "SELF_FENCE_S", 0.0)  # the outage lasts too long at once
    await beating.heartbeat.begin()
    beating.directory.is_away = True
    await beating.heartbeat.renew()
    assert beating.fenced == ["worker-1"]
    beating.directory.is_away = False
    await beating.heartbeat.begin()
    await beating.heartbeat.renew()
    assert beating.fenced == ["worker-1"]
    assert await redis_client.zscore(keys.LEASES, "worker-2") is not None


async def test_refused_renewal_fences_and_counts_as_a_renewal_only(
    beating: Beating, redis_client: aioredis.Redis
) -> None:
    await beating.heartbeat.begin()
    await redis_client.delete(keys.LEASES)
    await beating.heartbeat.renew()
    assert beating.fenced == ["worker-1"]
    assert int(await redis_client.get(keys.FENCED_RENEWALS) or 0) == 1
    assert await redis_client.get(keys.FENCED_WRITES) is None


@pytest.mark.parametrize("limits", [StepLimits(0.0, 0.0)], ids=["every step is late"])
async def test_stalled_engine_gets_no_renewal(
    beating: Beating, redis_client: aioredis.Redis
) -> None:
    await beating.heartbeat.begin()
    before = await redis_client.zscore(keys.LEASES, "worker-1")
    beating.page.set_running(1)
    await beating.heartbeat.renew()
    assert await redis_client.zscore(keys.LEASES, "worker-1") == before
    assert beating.fenced == []


async def test_a_worker_is_ready_from_its_registration_until_it_is_told_otherwise(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = beating.heartbeat
    assert not heartbeat.is_ready

    await heartbeat.begin()
    assert heartbeat.is_ready

    heartbeat.state = "draining"
    assert not heartbeat.is_ready

    heartbeat.state = "ready"
    monkeypatch.setattr(heartbeat_module, "SELF_FENCE_S", 0.0)  # as after a long silence of Redis
    assert not heartbeat.is_ready
