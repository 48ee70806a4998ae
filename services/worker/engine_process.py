"""The child process that runs the engine: started by `main.py`, never by hand.

    python -m services.worker.engine_process --progress-fd N --parent-pid N

It may crash or hang; its parent sees that on the progress page and starts another.
"""

import argparse
import asyncio
import signal
import sys

import uvloop
from setproctitle import setproctitle

from services.die_with_parent import die_with_parent
from services.protocol.connection import open_wire
from services.protocol.event_stream import EventWriter
from services.protocol.image_store import ImageStore
from services.protocol.request_queue import WorkerQueue
from services.protocol.worker_directory import WorkerDirectory
from services.telemetry import configure_logging
from services.tracing.opening import TracingMissingError, open_tracing
from services.tracing.spans import Tracing
from services.worker.engines.base import EngineStartError
from services.worker.engines.registry import build_engine
from services.worker.exit_codes import EXIT_CANNOT_START, EXIT_LOOP_BROKEN
from services.worker.health_server import serve_health
from services.worker.images import ImageLoader
from services.worker.links import WorkerLinks
from services.worker.loop import Worker, WorkerLoopError
from services.worker.metrics import WorkerMetrics
from services.worker.progress_page import ProgressPage
from services.worker.refusal import tell_refusal
from services.worker.settings import WorkerSettings


def main() -> None:
    """Run until drained; exits with EXIT_CANNOT_START where the engine refuses its settings."""
    parser = argparse.ArgumentParser(prog="services.worker.engine_process")
    parser.add_argument("--progress-fd", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--cordoned", action="store_true", help="as its predecessor was")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent_pid)
    settings = WorkerSettings()
    configure_logging("worker", settings.log_format, settings.log_level)
    setproctitle(f"galen worker engine [{settings.model_id}]")
    try:
        uvloop.run(
            _serve(settings, ProgressPage(arguments.progress_fd), is_cordoned=arguments.cordoned)
        )
    except EngineStartError as error:
        tell_refusal(str(error))
        sys.exit(EXIT_CANNOT_START)
    except WorkerLoopError:
        sys.exit(EXIT_LOOP_BROKEN)


async def _serve(settings: WorkerSettings, page: ProgressPage, *, is_cordoned: bool) -> None:
    url = settings.redis_url.get_secret_value()
    wire = open_wire(url)
    control = open_wire(url, blocking=True)
    bell = open_wire(url, blocking=True)
    pictures = open_wire(url)
    engine = build_engine(settings)
    metrics = WorkerMetrics(engine.stats, settings.slots, settings.model_id)
    links = WorkerLinks(
        queue=WorkerQueue(wire, bell, settings.model_id),
        control=WorkerQueue(wire, control, settings.model_id),
        writer=EventWriter(wire),
        directory=WorkerDirectory(wire),
        images=ImageLoader(
            ImageStore(pictures),
            settings.image_cache_bytes,
            lambda source: metrics.images.labels(source).inc(),
        ),
    )
    tracing = _open_tracing(settings)
    worker = Worker(settings, engine, links, page, metrics, tracing)
    if is_cordoned:
        worker.cordon()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.drain)
    if settings.metrics_port is not None:
        _serve_metrics(settings.metrics_host, settings.metrics_port, metrics, worker)
    try:
        await worker.run()
    finally:
        await asyncio.to_thread(tracing.close)
        for each in (wire, control, bell, pictures):
            await each.aclose()


def _open_tracing(settings: WorkerSettings) -> Tracing:
    try:
        return open_tracing(settings.traces_url, "worker")
    except TracingMissingError as error:
        raise EngineStartError(str(error)) from error


def _serve_metrics(host: str, port: int, metrics: WorkerMetrics, worker: Worker) -> None:
    try:
        serve_health(host, port, metrics.registry, worker.is_ready)
    except OSError as error:
        raise EngineStartError(
            f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another port "
            "with GALEN_WORKER_METRICS_PORT, or address with GALEN_WORKER_METRICS_HOST"
        ) from error


if __name__ == "__main__":
    main()
