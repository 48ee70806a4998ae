"""Looks for work that nobody has, and sends it: what makes Redis a mere messenger.

Every few seconds: jobs whose window is over end; shards whose workers are silent are anybody's;
what is not sent is sent; and where Redis lost its data, everything is sent again. Several machines
may do so at once. What does *not* live here: the worker's own health (`main.py`).
"""

import asyncio
import secrets
import shutil

import structlog

from evaluation.jobs.office import Office
from evaluation.jobs.parts import job_folder
from services.protocol import keys
from services.protocol.connection import as_text, connect
from services.store.job_records import expire_jobs, statuses_of
from services.store.models import ENDED
from services.store.shard_records import forget_sent, take_lost_shards

_log = structlog.get_logger()

_EPOCH = f"{keys.PREFIX}celery:epoch"
"""Drawn when it is missing: Redis has lost its data, or is a new one."""


class QueueMemory:
    """Whether Redis still holds what was sent to it."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect(redis_url, max_connections=1)
        self._epoch: str | None = None

    async def was_lost(self) -> bool:
        """Return whether the data set is another than before, or was never seen.

        Raises:
            RedisError, OSError: Redis is away.
        """
        await self._client.set(_EPOCH, secrets.token_hex(8), nx=True)
        found = await self._client.get(_EPOCH)
        epoch = as_text(found) if found is not None else ""
        was_lost, self._epoch = epoch != self._epoch, epoch
        return was_lost

    def forget(self) -> None:
        """Take everything for lost: what was told of it was not acted on, or who had it is gone."""
        self._epoch = None

    async def close(self) -> None:
        """Let go of Redis."""
        await self._client.aclose()


async def look_forever(office: Office, memory: QueueMemory) -> None:
    """Look every few seconds; goes on through the absence of Redis and of the database."""
    while True:
        try:
            await look(office, memory)
        except Exception as error:  # noqa: BLE001 - of Redis, the database or kombu: the next look
            memory.forget()
            _log.warning("jobs.waiting", cause=type(error).__name__)
        await asyncio.sleep(office.settings.look_s)


async def look(office: Office, memory: QueueMemory) -> None:
    """Look once."""
    was_lost = await memory.was_lost()
    async with office.database.begin() as session:
        if was_lost:
            await forget_sent(session)
        await expire_jobs(session)
        num_lost = await take_lost_shards(session)
    if num_lost:
        _log.warning("shards.taken_back", shards=num_lost)
    await office.send_due()
    await _tidy_up(office)


async def _tidy_up(office: Office) -> None:
    """Remove what is left of jobs that have ended, on this machine's disk and in the store."""
    folders = [path for path in office.place.folder.iterdir() if path.is_dir()]
    if not folders:
        return
    async with office.database.begin() as session:
        known = await statuses_of(session, [folder.name for folder in folders])
    for folder in folders:
        if known.get(folder.name) in ENDED:
            await asyncio.to_thread(office.files.remove, job_folder(folder.name))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
