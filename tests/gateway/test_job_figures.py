"""Figures of jobs are the database's, also while nobody works on them."""

from pathlib import Path

import pytest

from services.gateway.job_figures import measure_jobs
from services.gateway.job_store import STORE_FAILED, JobStore
from services.gateway.metrics import GatewayMetrics
from services.store.job_records import NewJob, Split, add_job, start_job
from services.store.settings import StoreSettings
from services.store.shard_records import claim_shard


def figures(metrics: GatewayMetrics) -> tuple[float | None, float | None]:
    found = metrics.registry.get_sample_value
    return found("galen_gateway_open_jobs"), found("galen_gateway_held_shards")


async def test_jobs_and_what_is_held_of_them_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALEN_STORE_DIR", str(tmp_path))
    store, metrics = JobStore(StoreSettings()), GatewayMetrics()
    new = NewJob("t", "batch", "/v1/chat/completions", "m", "file-1", "24h", 86_400, 1)

    await measure_jobs(store, metrics)
    assert figures(metrics) == (0, 0)
    async with store.begin() as session:
        job = await add_job(session, new)
        assert await start_job(session, job, [Split(0, 1, 0, 10)])
    await measure_jobs(store, metrics)
    assert figures(metrics) == (1, 0)
    async with store.begin() as session:
        assert await claim_shard(session, job.id, 0, owner="w", lease_ms=60_000)
    await measure_jobs(store, metrics)
    assert figures(metrics) == (1, 1)
    await store.close()


async def test_a_database_that_is_away_leaves_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    monkeypatch.setenv("GALEN_STORE_DIR", str(tmp_path / "store"))
    store, metrics = JobStore(StoreSettings()), GatewayMetrics()
    metrics.open_jobs.set(3)

    with pytest.raises(STORE_FAILED):
        await measure_jobs(store, metrics)

    assert figures(metrics) == (3, 0)
    await store.close()
