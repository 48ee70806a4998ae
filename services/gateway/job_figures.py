"""Whether anybody works on batches and evaluations, as the database tells.

Job workers have no metrics of their own. What does *not* live here: what a job is
(`services/store`), and the alert (`deploy/prometheus`).
"""

import asyncio

import structlog

from services.gateway.job_store import STORE_FAILED, JobStore, unbroken
from services.gateway.metrics import GatewayMetrics
from services.store.shard_records import job_figures

_log = structlog.get_logger()

_LOOK_EVERY_S = 15.0
"""As often as Prometheus asks by default."""


async def watch_jobs(store: JobStore, metrics: GatewayMetrics) -> None:
    """Keep the figures of jobs; cancelled at the gateway's end."""
    while True:
        try:
            await unbroken(measure_jobs(store, metrics))
        except STORE_FAILED as error:  # the figures stay: what they say is no worse known
            _log.warning("jobs.not.counted", cause=type(error).__name__)
        await asyncio.sleep(_LOOK_EVERY_S)


async def measure_jobs(store: JobStore, metrics: GatewayMetrics) -> None:
    """Count the jobs that have not ended, and their parts that somebody works on now.

    Raises:
        UnavailableError, SQLAlchemyError: the database cannot be asked.
    """
    async with store.begin() as session:
        figures = await job_figures(session)
    metrics.open_jobs.set(figures.num_open)
    metrics.held_shards.set(figures.num_held)
