"""`galen up`: the whole platform in one terminal, as child processes, until Ctrl-C.

    galen up --once

Lives here: the order of things. However it ends (Ctrl-C, SIGTERM, a dead child, an error), every
child is ended and the temporary folder removed; a launcher killed by SIGKILL takes its children
with it, and its folder goes with the next start.
"""

import asyncio
import errno
import importlib
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx
from setproctitle import setproctitle

from services.gateway.settings import GatewaySettings
from services.launcher.children import Family
from services.launcher.demo_files import (
    DEMO_MODEL_ID,
    check_packages,
    demo_checkpoint,
)
from services.launcher.environment import service_environment
from services.launcher.first_question import (
    CLIENT_MODULE,
    FirstQuestion,
    first_question,
    print_answer,
    print_commands,
)
from services.launcher.redis_server import (
    check_redis,
    embedded_url,
    redis_command,
    wait_for_redis,
)
from services.launcher.run_folder import run_folder
from services.launcher.settings_check import check_settings, warn_of_unknown_prefixes
from services.launcher.terminal import CommandError, Terminal
from services.settings_guard import set_variables
from services.telemetry import LogLevel
from services.worker.settings import WorkerSettings

EngineName = Literal["transformers", "fake"]

_POLL_S = 0.1
_SAY_AGAIN_S = 15.0
_DRAIN_S = 2
_DEATH_NEWS_S = 1.0
_OWN_VARIABLES = (
    "GALEN_GATEWAY_DRAIN_DELAY_S",
    "GALEN_GATEWAY_DRAIN_TIMEOUT_S",
    "GALEN_WORKER_DRAIN_TIMEOUT_S",
    "GALEN_WORKER_NAME",
)
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - no listening


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user asked for; `None` is what the launcher brings along itself.

    Args:
        cache_home: the demo checkpoint is kept in its folder `galen`.
        once: answer one question and end.
    """

    host: str
    port: int
    engine: EngineName
    workers: int
    slots: int
    cache_home: Path
    start_timeout_s: float
    log_level: LogLevel | None = None
    question: str | None = None
    image: Path | None = None
    model_path: Path | None = None
    model_id: str | None = None
    redis_url: str | None = None
    ask: bool = True
    once: bool = False


def run_up(options: UpOptions) -> int:
    """Run until it is over; returns the exit code.

    Raises:
        CommandError: it cannot start, a child died, or the answer failed (only with `once`).
    """
    check_settings(GatewaySettings, _gateway_options(options))
    check_settings(WorkerSettings, _worker_options(options))
    warn_of_unknown_prefixes()
    if options.model_path is not None and not (options.model_path / "config.json").is_file():
        raise CommandError(
            f"{options.model_path} has no config.json: not a checkpoint in Hugging Face layout"
        )
    setproctitle("galen up")
    return asyncio.run(_up(options))


class StopSignals:
    """The first SIGINT, SIGTERM or SIGHUP ends everything in order, the second at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.number = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.first.is_set():
            self.second.set()
            return
        self.number = number
        self.first.set()


async def _up(options: UpOptions) -> int:
    signals = StopSignals()
    port = free_port(options.host, options.port)
    if options.engine == "transformers":
        check_packages()
    terminal = Terminal(["redis", "gateway", *_worker_names(options)])
    for name in set_variables(_OWN_VARIABLES):
        terminal.progress(f"{name} is ignored: `galen up` chooses it")
    with run_folder() as folder:
        family = Family(terminal)
        launcher = _Launcher(options, port, folder, terminal, family)
        try:
            return await _until_stopped(launcher, signals)
        finally:
            if launcher.is_serving:
                terminal.progress("ending everything (Ctrl-C again: at once)")
            await family.end(signals.second)


async def _until_stopped(launcher: "_Launcher", signals: StopSignals) -> int:
    """Run the launcher until it has answered once, a signal comes or a child dies."""
    work = asyncio.create_task(launcher.run())
    death = asyncio.create_task(launcher.family.first_death())
    stop = asyncio.create_task(signals.first.wait())
    try:
        await asyncio.wait({work, death, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            return 0 if launcher.is_serving else 128 + signals.number
        if work.done() and work.exception() is not None:  # perhaps because a child is dead
            await asyncio.wait({death}, timeout=_DEATH_NEWS_S)
        if death.done():
            raise death.result()
        return work.result()
    finally:
        for task in (work, death, stop):
            task.cancel()
        await asyncio.gather(work, death, stop, return_exceptions=True)


@dataclass(slots=True)
class _Launcher:
    """One run, from nothing to serving."""

    options: UpOptions
    port: int
    folder: Path
    terminal: Terminal
    family: Family
    is_serving: bool = False
    _started: float = field(default_factory=time.monotonic)

    async def run(self) -> int:
        """Start everything, ask one question, serve until cancelled (or end, with `once`)."""
        options = self.options
        # The client's second of loading passes while the children load.
        loaded = asyncio.create_task(asyncio.to_thread(importlib.import_module, CLIENT_MODULE))
        model_id, model_path = await self._checkpoint()
        redis_url = await self._start_redis()
        await self._start_services(redis_url, model_id, model_path)
        await self._wait_until_ready(model_id)
        self.family.is_established = True
        self.terminal.progress(f"ready after {time.monotonic() - self._started:.1f} s")
        first = first_question(
            self._url(), model_id, options.image, options.question, drawn_in=self.folder
        )
        await loaded
        with self.terminal.hold_logs():
            if options.ask:
                await self._ask(first)
            if not options.once:
                print_commands(self.terminal, first)
        if options.once:
            return 0
        self.terminal.result(f"Serving {model_id} at {self._url()} until Ctrl-C.", "bold")
        self.is_serving = True
        return await asyncio.Event().wait()

    async def _checkpoint(self) -> tuple[str, Path | None]:
        """Return the model's name and folder."""
        options = self.options
        if options.engine == "fake":
            return options.model_id or "fake", None
        if options.model_path is not None:
            path = options.model_path.resolve()
            return options.model_id or path.name, path
        path = await demo_checkpoint(
            options.cache_home, self.family, self.terminal, service_environment({})
        )
        return options.model_id or DEMO_MODEL_ID, path

    async def _start_redis(self) -> str:
        given = self.options.redis_url
        if given is not None:
            await check_redis(given)
            return given
        await self.family.start("redis", redis_command(self.folder), is_quiet=True)
        url = embedded_url(self.folder)
        await wait_for_redis(url)
        return url

    async def _start_services(self, redis_url: str, model_id: str, path: Path | None) -> None:
        gateway = _gateway_options(self.options) | {
            "port": str(self.port),
            "redis_url": redis_url,
            "drain_delay_s": "0",
            "drain_timeout_s": str(_DRAIN_S),
        }
        worker = _worker_options(self.options) | {
            "model_id": model_id,
            "redis_url": redis_url,
            "drain_timeout_s": str(_DRAIN_S),
        }
        if path is not None:
            worker["model_path"] = str(path)
        await self.family.start("gateway", *_service("gateway", gateway))
        for name in _worker_names(self.options):
            named = worker | {"name": name.replace(" ", "-")}
            await self.family.start_replaceable(name, *_service("worker", named))

    async def _wait_until_ready(self, model_id: str) -> None:
        limit_s = self.options.start_timeout_s
        self.terminal.progress("waiting until the gateway and the model are ready")
        say_again = time.monotonic() + _SAY_AGAIN_S
        try:
            async with asyncio.timeout(limit_s), httpx.AsyncClient(trust_env=False) as client:
                while not await self._is_ready(client, model_id):
                    if time.monotonic() > say_again:
                        self.terminal.progress("still waiting")
                        say_again += _SAY_AGAIN_S
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise CommandError(
                f"not ready after {limit_s:g} s; a large model may need a longer --start-timeout"
            ) from error

    async def _is_ready(self, client: httpx.AsyncClient, model_id: str) -> bool:
        """Return whether the gateway is ready, and for this very model."""
        try:
            ready = await client.get(self._url("readyz"))
            if ready.status_code != HTTPStatus.OK:
                return False
            if self.options.redis_url is None:
                return True  # nobody else's worker is there
            model = await client.get(self._url(f"v1/models/{quote(model_id)}"))
            return model.status_code == HTTPStatus.OK and model.json()["state"] == "ready"
        except httpx.TransportError:
            return False

    async def _ask(self, first: FirstQuestion) -> None:
        """Ask the question; that it fails ends only a run with `once`."""
        try:
            await print_answer(self.terminal, first)
        except CommandError as error:
            if self.options.once:
                raise
            self.terminal.failure(error)

    def _url(self, path: str = "v1") -> str:
        host = _ANY_ADDRESS.get(self.options.host, self.options.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{path}"


def free_port(host: str, port: int) -> int:
    """Return the port to listen on (0: any free one); raises CommandError where it is not free."""
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} is in use; choose another with --port"
        else:
            message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CommandError(message) from error


def _gateway_options(options: UpOptions) -> dict[str, str]:
    """Return what the user chose for the gateway, by field of its settings."""
    return {"host": options.host, "port": str(options.port)} | _log_options(options, "GATEWAY")


def _worker_options(options: UpOptions) -> dict[str, str]:
    """Return what the user chose for each worker, by field of its settings."""
    chosen = {"engine": options.engine, "slots": str(options.slots)}
    if options.model_id is not None:
        chosen["model_id"] = options.model_id
    return chosen | _log_options(options, "WORKER")


def _log_options(options: UpOptions, service: str) -> dict[str, str]:
    chosen: dict[str, str] = {}
    if not set_variables([f"GALEN_{service}_LOG_FORMAT"]):
        chosen["log_format"] = "console"
    if options.log_level is not None:
        chosen["log_level"] = options.log_level
    return chosen


def _service(service: str, settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a service."""
    prefix = f"GALEN_{service}_"
    environment = service_environment(
        {f"{prefix}{field}".upper(): value for field, value in settings.items()}
    )
    return [sys.executable, "-m", f"services.{service}.main"], environment


def _worker_names(options: UpOptions) -> list[str]:
    if options.workers == 1:
        return ["worker"]
    return [f"worker {number}" for number in range(1, options.workers + 1)]
