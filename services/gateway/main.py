"""The gateway's process: application, life cycle, signals.

    GALEN_GATEWAY_REDIS_URL=redis://127.0.0.1:6379/0 python -m services.gateway.main

SIGTERM: `/readyz` turns to 503 at once, while requests are served as before, so that a balancer has
time to look; then the port closes, running requests end, and the process exits with code 0. A
second SIGTERM, or the end of the drain's time, ends running requests with an error event, and the
process exits.
"""

import asyncio
import ctypes
import gc
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from setproctitle import setproctitle
from starlette.types import ASGIApp

from services.gateway.access.parts import Access, make_access, why_not_to_start
from services.gateway.audit import AuditLog
from services.gateway.catalogue import ModelCatalogue
from services.gateway.dispatch import Dispatcher
from services.gateway.error_handlers import install_error_handlers
from services.gateway.http_protocol import with_head_timeout
from services.gateway.image_sources import ImageSources
from services.gateway.job_figures import watch_jobs
from services.gateway.job_sender import JobSender
from services.gateway.media.decoder import ImageDecoder
from services.gateway.media.images import ImageLimits, ImageResolver
from services.gateway.memory import MemoryGuard
from services.gateway.metrics import GatewayMetrics
from services.gateway.middleware import FrontDoor
from services.gateway.moderation import open_moderation
from services.gateway.pulse import Pulse
from services.gateway.routes import (
    admin,
    admin_status,
    audit,
    batches,
    chat,
    completions,
    embeddings,
    evaluations,
    feedback,
    files,
    health,
    keys,
    models,
    preview,
    responses,
    usage,
)
from services.gateway.routes.api_document import install_api_document
from services.gateway.settings import GatewaySettings
from services.gateway.state import GatewayState
from services.gateway.vision_files import sweep_forever
from services.protocol.admin import AdminOrders
from services.protocol.connection import REDIS_AWAY, open_wire
from services.protocol.errors import ErrorCode
from services.protocol.event_stream import EventReader
from services.protocol.image_store import ImageStore
from services.protocol.request_queue import RequestQueue
from services.protocol.wire import RedisWire
from services.protocol.worker_directory import WorkerDirectory
from services.settings_guard import settings_or_exit
from services.store.settings import StoreSettings
from services.telemetry import configure_logging
from services.tracing.opening import TracingMissingError, open_tracing
from services.tracing.spans import Tracing

_log = structlog.get_logger()

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # <malloc.h>

_LATE_S = 0.5
"""After the port is closed: connections that were made just before still bring their request."""
_LAST_WORDS_S = 1.0
"""Time for the last error events to leave; then connections that take nothing are dropped."""
_SERVER_PATIENCE_S = 2.0
"""uvicorn cancels whatever it still runs so long after the drain: later than all of ours."""


def create_app(settings: GatewaySettings, access: Access, metrics: GatewayMetrics) -> FastAPI:
    """Return the application; its parts begin and end with its lifespan."""
    memory = MemoryGuard(
        settings.memory_limit_bytes, settings.memory_soft_share, settings.memory_hard_share
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with _gateway(settings, access, metrics, memory) as state:
            app.state.galen = state
            yield

    app = FastAPI(title="Galen", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.memory = memory
    install_error_handlers(app)
    install_api_document(app)
    for routes in (chat, completions, responses, embeddings, models, health):
        app.include_router(routes.router)
    for routes in (files, batches, evaluations, feedback, usage, preview):
        app.include_router(routes.router)
    for routes in (admin, admin_status, audit, keys):
        app.include_router(routes.router)
    return app


@asynccontextmanager
async def _gateway(
    settings: GatewaySettings,
    access: Access,
    metrics: GatewayMetrics,
    memory: MemoryGuard,
) -> AsyncGenerator[GatewayState]:
    """Begin the gateway's parts, and end them in the opposite order."""
    url = settings.redis_url.get_secret_value()
    commands, beats, blocking = open_wire(url), open_wire(url), open_wire(url, blocking=True)
    pictures = open_wire(url)
    gateway_id = f"gateway-{secrets.token_hex(6)}"
    catalogue = ModelCatalogue()
    queue, reader = RequestQueue(commands), EventReader(blocking, gateway_id)
    dispatcher = Dispatcher(settings, queue, reader, catalogue, metrics, gateway_id)
    directory = WorkerDirectory(beats)
    pulse = Pulse(settings, dispatcher, directory, catalogue, metrics)
    sources = ImageSources(settings, access.store)
    decoder, images = _image_path(settings, pictures, metrics)
    moderation = open_moderation(settings)
    records = AuditLog(settings, access.store, metrics, gateway_id)
    for part in (decoder.start, access.open, records.start):
        await part()
    try:
        await pulse.beat()
        dispatcher.is_redis_up = True
        _log.info("gateway.ready", gateway_id=gateway_id)
    except REDIS_AWAY as error:
        _log.warning("gateway.started.without_redis", cause=type(error).__name__)
    loops = (
        dispatcher.read_forever(),
        pulse.beat_forever(),
        pulse.watch_replies(),
        pulse.measure_lag(),
        *access.loops(),
        records.write_forever(),
        sweep_forever(access.store, settings.vision_days),
        watch_jobs(access.store, metrics),
    )
    try:
        async with _running(loops):
            try:
                yield GatewayState(
                    settings, metrics, catalogue, dispatcher, images, sources, pulse,
                    AdminOrders(beats), access.store, JobSender(url), memory, access, records,
                    moderation,
                )  # fmt: skip
            finally:
                await dispatcher.settled()
    finally:
        try:
            await directory.gateway_leave(gateway_id)
        except REDIS_AWAY:
            _log.warning("gateway.left.unannounced")
        for each in (decoder, sources, access, records, access.store):
            await each.close()
        if moderation is not None:
            await moderation.close()
        for client in (commands, beats, pictures, blocking):
            await client.aclose()


def _image_path(
    settings: GatewaySettings, wire: RedisWire, metrics: GatewayMetrics
) -> tuple[ImageDecoder, ImageResolver]:
    decoder = ImageDecoder(
        num_children=settings.decoder_processes, on_decoded=metrics.image_decode.observe
    )
    return decoder, ImageResolver(
        decoder,
        ImageStore(wire),
        limits=ImageLimits(settings.max_images, max_image_bytes=settings.max_image_bytes),
        cache_bytes=settings.image_cache_bytes,
        on_image=lambda source: metrics.images.labels(source).inc(),
    )


@asynccontextmanager
async def _running(loops: Iterable[Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(_essential(loop)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _essential(loop: Coroutine[Any, Any, None]) -> None:
    """Run a loop without which the gateway is of no use: its failure ends the process."""
    try:
        await loop
    except asyncio.CancelledError:
        raise
    except Exception:
        _log.exception("gateway.loop.broken")
        signal.raise_signal(signal.SIGTERM)
        raise


class GatewayServer(uvicorn.Server):
    """uvicorn with a drain: seen as not ready first, then without a port, then closed."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: GatewaySettings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._signals = 0

    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to drain with the first signal, end with the second."""
        self._signals += 1
        state: GatewayState | None = getattr(self._app.state, "galen", None)
        if state is None:
            self.should_exit = True
            return
        loop = asyncio.get_running_loop()
        state.is_draining = True
        if self._signals == 1:
            _log.info("gateway.draining", open=state.dispatcher.num_open)
            loop.call_later(self._settings.drain_delay_s, self._close)
            drain_s = self._settings.drain_delay_s + _LATE_S + self._settings.drain_timeout_s
            loop.call_later(drain_s, _fail_open, state)
            loop.call_later(drain_s + _LAST_WORDS_S, _drop_open, state)
            return
        state.is_closed = True
        _fail_open(state)
        self._close()
        loop.call_later(_LAST_WORDS_S, self._force)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, take what is on its way, then refuse, and wait for what runs."""
        for server in self.servers:
            server.close()
        state: GatewayState | None = getattr(self._app.state, "galen", None)
        if state is not None:
            if not state.is_closed:
                await asyncio.sleep(_LATE_S)
            state.is_closed = True
        await super().shutdown(sockets)

    def _close(self) -> None:
        self.should_exit = True

    def _force(self) -> None:
        self.force_exit = True


def _fail_open(state: GatewayState) -> None:
    """End every request under way with an error."""
    message = "the gateway was told to stop before the answer was complete"
    for reply in state.dispatcher.replies():
        state.dispatcher.fail(reply, ErrorCode.SHUTTING_DOWN, message)


def _drop_open(state: GatewayState) -> None:
    """Drop the connections of clients that did not even take their error."""
    for reply in state.dispatcher.replies():
        reply.abandon()


def _open_tracing(settings: GatewaySettings) -> Tracing:
    try:
        return open_tracing(settings.traces_url, "gateway", settings.traces_share)
    except TracingMissingError as error:
        sys.exit(str(error))


def _spare_the_collector() -> None:
    """Collect rarely: what a request makes is freed by its reference counts."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _give_memory_back() -> None:
    """Let glibc return the memory of large bodies: few arenas, a fixed threshold for own mappings.

    Measured with 16 clients that send images of 1 MB: 158 MB peak resident size before, 134 after.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 << 10)


def main(wrap: Callable[[ASGIApp], ASGIApp] = lambda door: door) -> None:
    """Entry point of `galen gateway`.

    Args:
        wrap: puts something around the whole, such as a benchmark's own callers.
    """
    settings = settings_or_exit(GatewaySettings, "gateway")
    store_settings = settings_or_exit(StoreSettings, "store")
    configure_logging("gateway", settings.log_format, settings.log_level)
    setproctitle("galen gateway")
    os.umask(0o077)  # what is uploaded may be patients' data
    if problem := why_not_to_start(settings, store_settings):
        sys.exit(problem)
    metrics = GatewayMetrics(settings.metrics_tenants)
    access = make_access(settings, store_settings)
    app = create_app(settings, access, metrics)
    tracing = _open_tracing(settings)
    direct = {
        ("POST", "/v1/chat/completions"): chat.create_chat_completion,
        ("POST", "/v1/completions"): completions.create_completion,
        ("POST", "/v1/responses"): responses.create_response,
    }
    _spare_the_collector()
    _give_memory_back()
    config = uvicorn.Config(
        wrap(FrontDoor(app, direct, metrics, app.state.memory, access, tracing)),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=with_head_timeout(settings.head_timeout_s),
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s + _SERVER_PATIENCE_S),
    )
    server = GatewayServer(config, app, settings)
    server.run()
    tracing.close()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()
