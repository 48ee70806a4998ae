"""What every task works with, for as long as it runs: database, files, the queue, our place.

What does *not* live here: the tasks (`starting.py`, `shard.py`, `ending.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from evaluation.jobs.batch_kind import BatchKind
from evaluation.jobs.evaluation_kind import EvaluationKind
from evaluation.jobs.lines import LineKind
from evaluation.jobs.places import WorkPlace
from evaluation.jobs.settings import JobSettings
from services.protocol.jobs import FINISH_TASK, SHARD_TASK, START_TASK
from services.store.database import Database
from services.store.file_store import FileStore
from services.store.job_records import unsent_jobs
from services.store.key_secrets import JobGrant, KeySecrets, load_secrets
from services.store.models import JobRow
from services.store.settings import StoreSettings
from services.store.shard_records import unsent_shards

Send = Callable[[str, list[object]], None]
"""Sends a task by name, with its arguments."""

_SHARDS_SENT_PER_PROCESS = 2
_LEAST_SHARDS_SENT = 8
_AGAIN_AFTER_MS = 120_000
"""A machine may die with tasks that it has taken and not begun. Sent twice, one does nothing."""


@dataclass(frozen=True, slots=True)
class Office:
    """Made by `open_office`."""

    settings: JobSettings
    database: Database
    files: FileStore
    place: WorkPlace
    send: Send
    secrets: KeySecrets

    def token_for(self, job: JobRow) -> str:
        """Return what a gateway lets us in with: for the job's tenant, and its key pays."""
        return self.secrets.job_token(JobGrant(job.tenant_id, job.key_id or "", job.id))

    def kind_of(self, job: JobRow) -> LineKind:
        """Return what is particular to a job."""
        return EvaluationKind() if job.kind == "evaluation" else BatchKind()

    async def send_due(self) -> int:
        """Send every task that a worker should get now; returns how many."""
        per_job = max(_LEAST_SHARDS_SENT, _SHARDS_SENT_PER_PROCESS * self.settings.processes)
        async with self.database.begin() as session:
            jobs = await unsent_jobs(session, again_after_ms=_AGAIN_AFTER_MS)
            shards = await unsent_shards(session, per_job=per_job, again_after_ms=_AGAIN_AFTER_MS)

        def send_all() -> None:
            for job in jobs:
                self.send(START_TASK if job.status == "validating" else FINISH_TASK, [job.id])
            for shard in shards:
                self.send(SHARD_TASK, [shard.job_id, shard.number])

        await asyncio.to_thread(send_all)
        return len(jobs) + len(shards)


@asynccontextmanager
async def open_office(
    settings: JobSettings, store: StoreSettings, place: WorkPlace, send: Send
) -> AsyncGenerator[Office]:
    """Open the database for as long as the context lasts; its schema is up to date already.

    Raises:
        OSError: the pepper that tokens are signed with can be neither read nor kept.
    """
    secrets = await asyncio.to_thread(load_secrets, store)
    database = Database(store.database)
    try:
        yield Office(settings, database, FileStore(store.files), place, send, secrets)
    finally:
        await database.close()
