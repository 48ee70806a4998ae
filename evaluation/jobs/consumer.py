"""The Celery worker: takes tasks, and gives them to what does the work.

    python -m evaluation.jobs.consumer

Started, watched and ended by `main.py`, which also gives it its place. A task that fails is logged
and comes again (`watch.py`): what is to be done stands in the database.
"""

import asyncio
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from celery import Celery  # pyright: ignore[reportMissingTypeStubs] - it has no types
from celery.exceptions import (  # pyright: ignore[reportMissingTypeStubs] - as above
    SecurityWarning,
)
from celery.signals import (  # pyright: ignore[reportMissingTypeStubs] - as above
    worker_process_init,
)
from setproctitle import setproctitle

from evaluation.jobs.ending import end
from evaluation.jobs.office import Office, open_office
from evaluation.jobs.places import WorkPlace
from evaluation.jobs.settings import JobSettings
from evaluation.jobs.shard import do_shard
from evaluation.jobs.starting import start
from services.die_with_parent import die_with_parent
from services.protocol.jobs import (
    ECHO_TASK,
    FINISH_TASK,
    QUEUE,
    SHARD_TASK,
    START_TASK,
    celery_settings,
    echo_queue,
)
from services.settings_guard import settings_or_exit
from services.store.settings import StoreSettings
from services.telemetry import configure_logging

_log = structlog.get_logger()

_BEAT_S = 1.0
_LONGEST_END_S = 6 * 3600
"""Of a task that starts or ends a job: a large one may be scored for an hour."""
_TASKS_PER_PROCESS = 200


def make_celery(settings: JobSettings) -> Any:  # noqa: ANN401 - Celery has no types
    """Return the application, without tasks: enough to send them."""
    app = Celery("galen", set_as_current=False)
    app.conf.update(  # pyright: ignore[reportUnknownMemberType] - as above
        **celery_settings(settings.redis_url.get_secret_value()),
        worker_concurrency=settings.processes,
        worker_max_tasks_per_child=_TASKS_PER_PROCESS,
    )
    return app


def sender(app: Any) -> Callable[[str, list[object]], None]:  # noqa: ANN401 - as above
    """Return what sends a task by name."""

    def send(name: str, arguments: list[object]) -> None:
        app.send_task(name, arguments, ignore_result=True)

    return send


def add_tasks(app: Any, settings: JobSettings, store: StoreSettings, place: WorkPlace) -> None:  # noqa: ANN401 - as above
    """Give an application its tasks."""

    def run(work: Callable[[Office], Awaitable[None]], name: str, job_id: str) -> None:
        async def in_office() -> None:
            beating = asyncio.create_task(_beat(place))
            try:
                async with open_office(settings, store, place, sender(app)) as office:
                    await work(office)
            finally:
                beating.cancel()

        try:
            asyncio.run(in_office())
        except Exception as error:  # noqa: BLE001 - the outermost border of a task
            _log.error("task.failed", task=name, job_id=job_id, cause=type(error).__name__)

    def start_task(job_id: str) -> None:
        run(lambda office: start(office, job_id), "start", job_id)

    def shard_task(job_id: str, number: int) -> None:
        run(lambda office: do_shard(office, job_id, number), "shard", job_id)

    def finish_task(job_id: str) -> None:
        run(lambda office: end(office, job_id), "finish", job_id)

    def echo_task() -> None:
        place.touch()

    tasks = {
        START_TASK: start_task,
        SHARD_TASK: shard_task,
        FINISH_TASK: finish_task,
        ECHO_TASK: echo_task,
    }
    for name, function in tasks.items():
        limit_s = settings.longest_shard_s if name == SHARD_TASK else _LONGEST_END_S
        app.task(function, name=name, time_limit=limit_s)


async def _beat(place: WorkPlace) -> None:
    """Show that a task goes on, however long it takes."""
    while True:
        place.touch()
        await asyncio.sleep(_BEAT_S)


def main() -> None:
    """Entry point; arguments: the folder and the name of the place."""
    folder, name = sys.argv[1:]
    settings = settings_or_exit(JobSettings, "jobs")
    store = settings_or_exit(StoreSettings, "store")
    configure_logging("jobs", settings.log_format, settings.log_level)
    setproctitle("galen jobs consumer")
    # Celery warns root of pickles, which are not taken here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = make_celery(settings)
    place = WorkPlace(Path(folder), name)
    place.make_temporary_folder()
    tempfile.tempdir = str(place.temporary_folder)  # where a killed pool leaves folders of its own
    add_tasks(app, settings, store, place)

    def begin_process(**_: object) -> None:
        die_with_parent()
        setproctitle("galen jobs process")

    worker_process_init.connect(begin_process, weak=False)  # pyright: ignore[reportUnknownMemberType] - as above
    app.worker_main([
        "--quiet", "worker", "--pool", "prefork", "--queues", f"{QUEUE},{echo_queue(name)}",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING",
        "--hostname", f"{name}@galen",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
