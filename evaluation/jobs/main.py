"""The job workers' parent: small, so that it outlives what works.

    python -m evaluation.jobs.main

It brings the database up to date, starts the Celery worker and starts it again when it ends, looks
for work that nobody has, and kills a worker that takes no tasks any more: after a loss of Redis one
may stay connected and never consume again (celery/celery#8030, #10205). SIGTERM gives back what is
under way, and ends; what is on the disk stays.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Any

import structlog
from setproctitle import setproctitle

from evaluation.jobs.consumer import make_celery, sender
from evaluation.jobs.office import open_office
from evaluation.jobs.places import WorkPlace, take_place
from evaluation.jobs.settings import JobSettings
from evaluation.jobs.watch import QueueMemory, look_forever
from services.protocol.connection import REDIS_AWAY, Backoff, connect
from services.protocol.jobs import ECHO_TASK, echo_queue
from services.settings_guard import settings_or_exit
from services.store.database import Database, DatabaseError
from services.store.settings import StoreSettings
from services.telemetry import configure_logging

_log = structlog.get_logger()

_GRACE_S = 3.0
_ECHOES_PER_LIMIT = 6
_HEALTHY_S = 30.0
_WRAPPER = Path(__file__).parents[2] / "services" / "die_with_parent.py"


async def run(settings: JobSettings, store: StoreSettings, place: WorkPlace) -> None:
    """Work until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    app = make_celery(settings)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(_work(settings, store, place, app)),
        asyncio.create_task(stopping.wait()),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    place.stop_file.touch()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _work(settings: JobSettings, store: StoreSettings, place: WorkPlace, app: Any) -> None:  # noqa: ANN401 - Celery has no types
    await _prepare_database(store)
    memory = QueueMemory(settings.redis_url.get_secret_value())
    try:
        async with (
            open_office(settings, store, place, sender(app)) as office,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(look_forever(office, memory))
            group.create_task(_keep_consumer(settings, place, app, memory))
    finally:
        await memory.close()


async def _prepare_database(store: StoreSettings) -> None:
    """Wait for the database, and bring its schema up to date."""
    backoff = Backoff(most_s=5.0)
    while True:
        database = Database(store.database)
        try:
            await database.open()
        except DatabaseError as error:
            _log.warning("database.away", cause=str(error))
            await backoff.wait()
        else:
            return
        finally:
            await database.close()


async def _keep_consumer(
    settings: JobSettings,
    place: WorkPlace,
    app: Any,  # noqa: ANN401 - as above
    memory: QueueMemory,
) -> None:
    """Start the Celery worker whenever there is none; what one had taken is sent again."""
    backoff = Backoff(first_s=0.5, most_s=10.0)
    while True:
        started_s = time.monotonic()
        process = await _start(place)
        _log.info("jobs.ready", worker=place.name, processes=settings.processes)
        watching = asyncio.create_task(_watch(settings, place, app))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
                _log.error("jobs.stuck", worker=place.name, limit_s=settings.stuck_s)
            else:
                _log.warning("jobs.died", worker=place.name, code=process.returncode)
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            watching.cancel()
            ended.cancel()
            await asyncio.gather(watching, ended, return_exceptions=True)
            _kill(process)
        await process.wait()
        memory.forget()
        if time.monotonic() - started_s > _HEALTHY_S:
            backoff.reset()
        await backoff.wait()


async def _start(place: WorkPlace) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid()),
        sys.executable, "-m", "evaluation.jobs.consumer", str(place.folder), place.name,
        stdin=DEVNULL, start_new_session=True,
    )  # fmt: skip


async def _watch(settings: JobSettings, place: WorkPlace, app: Any) -> None:  # noqa: ANN401 - as above
    """Return when the worker has taken no task for too long, though Redis had some for it."""
    client = connect(settings.redis_url.get_secret_value(), max_connections=1)
    seen, since_s = place.seen_ns(), time.monotonic()
    pause_s = settings.stuck_s / _ECHOES_PER_LIMIT
    try:
        while time.monotonic() - since_s < settings.stuck_s:
            await asyncio.sleep(pause_s)
            if (now := place.seen_ns()) != seen:
                seen, since_s = now, time.monotonic()
                continue
            try:
                await client.ping()  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues] - redis-py types both clients
                await asyncio.to_thread(_echo, app, place, pause_s)
            except REDIS_AWAY:
                since_s = time.monotonic()
            except Exception as error:  # noqa: BLE001 - kombu's own
                _log.warning("echo.unsent", cause=type(error).__name__)
                since_s = time.monotonic()
    finally:
        await client.aclose()


def _echo(app: Any, place: WorkPlace, expires_s: float) -> None:  # noqa: ANN401 - as above
    app.send_task(ECHO_TASK, queue=echo_queue(place.name), expires=expires_s, ignore_result=True)


async def _end(process: Process) -> None:
    """Let the worker give back what it has; then it is killed."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_S):
            await process.wait()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Entry point of `galen jobs`."""
    settings = settings_or_exit(JobSettings, "jobs")
    store = settings_or_exit(StoreSettings, "store")
    configure_logging("jobs", settings.log_format, settings.log_level)
    setproctitle("galen jobs")
    os.umask(0o077)  # what is kept may be patients' data
    folder = settings.work_dir or store.dir / "work"
    try:
        place, lock = take_place(folder.absolute(), settings.name)
    except OSError as error:
        sys.exit(f"unfinished results cannot be kept in {folder}: {error.strerror}")
    with lock:
        asyncio.run(run(settings, store, place))


if __name__ == "__main__":
    main()
