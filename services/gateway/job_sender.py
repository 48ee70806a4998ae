"""Tells the job workers that there is work, through Celery.

Only a hint: where Redis is away, the workers find the work in the database a moment later. What
does *not* live here: the work (`evaluation/jobs`), and Celery itself until it is needed.
"""

import asyncio
import importlib
from typing import Any

import structlog

from services.protocol.jobs import START_TASK, celery_settings

_log = structlog.get_logger()


class JobSender:
    """Sends tasks by name.

    Args:
        redis_url: of the queue that the job workers take from.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._celery: Any = None  # Celery has no types

    async def start(self, job_id: str) -> None:
        """Let a worker begin with a job; never fails."""
        try:
            await asyncio.to_thread(self._send, START_TASK, job_id)
        except Exception as error:  # noqa: BLE001 - of kombu, redis-py or the system; see above
            _log.warning("job.unannounced", job_id=job_id, cause=type(error).__name__)

    def _send(self, task: str, *arguments: str) -> None:
        if self._celery is None:
            celery = importlib.import_module("celery")  # 20 MB and 0.3 s, which chat does not need
            self._celery = celery.Celery("galen", set_as_current=False)
            self._celery.conf.update(celery_settings(self._redis_url))
        self._celery.send_task(task, arguments)
