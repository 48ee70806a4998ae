"""`galen up`: the whole platform in one terminal, as child processes, until Ctrl-C.

    galen up --once

Lives here: the order of things. However it ends (Ctrl-C, SIGTERM, a dead child, an error), every
child is ended and the temporary folder removed; a launcher killed by SIGKILL takes its children
with it, and its folder goes with the next start.
"""

import asyncio
import importlib
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import httpx
from setproctitle import setproctitle

from evaluation.jobs.settings import JobSettings
from services.gateway.settings import GatewaySettings
from services.launcher.admin_access import AdminAccess, leave_access, new_key
from services.launcher.children import Family
from services.launcher.demo_files import check_packages
from services.launcher.first_question import (
    CLIENT_MODULE,
    FirstQuestion,
    first_question,
    print_answer,
    print_commands,
)
from services.launcher.fleet import Fleet
from services.launcher.host_agent import HostAgent
from services.launcher.layouts import choose_layouts, find_machine
from services.launcher.listening import free_port, local_url
from services.launcher.page_process import PageAddress, is_page_there, start_page, status_access
from services.launcher.redis_server import (
    check_redis,
    embedded_url,
    redis_command,
    wait_for_redis,
)
from services.launcher.run_folder import run_folder
from services.launcher.service_process import service_process, store_environment
from services.launcher.settings_check import check_settings, warn_of_unknown_prefixes
from services.launcher.terminal import CommandError, Terminal
from services.launcher.up_key import UpKey, give_back, say_who_may_ask, take_key
from services.launcher.wishes import MODEL_VARIABLES, EngineChoice, demo_wish, read_wishes
from services.protocol.admin import LoadModel
from services.settings_guard import set_variables
from services.store.settings import StoreSettings
from services.telemetry import LogLevel
from services.ui.settings import UiSettings
from services.worker.settings import WorkerSettings

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


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user asked for; `None` is what the launcher brings along or chooses itself.

    Args:
        models: DIR, NAME=DIR, or with the fake engine NAME; () for the demo's.
        overrides: of the layout, for every model, by field of `LoadModel`.
        worker_python: interpreter of workers with the vLLM engine.
        jobs: processes that work on batches and evaluations.
        data_dir: of the store; None: its own default.
        once: answer one question and end.
        page: None: none is started.
    """

    host: str
    port: int
    engine: EngineChoice
    start_timeout_s: float
    models: tuple[str, ...] = ()
    overrides: Mapping[str, str | int | None] = field(default_factory=dict[str, str | int | None])
    worker_python: Path | None = None
    log_level: LogLevel | None = None
    question: str | None = None
    image: Path | None = None
    redis_url: str | None = None
    jobs: int = 1
    data_dir: Path | None = None
    ask: bool = True
    once: bool = False
    page: PageAddress | None = None


def run_up(options: UpOptions) -> int:
    """Run until it is over; returns the exit code.

    Raises:
        CommandError: it cannot start, a child died, or the answer failed (only with `once`).
    """
    check_settings(GatewaySettings, _gateway_options(options))
    check_settings(WorkerSettings, _worker_options(options))
    check_settings(JobSettings, _log_options(options, "JOBS"))
    check_settings(StoreSettings, _store_options(options))
    check_settings(UiSettings, _log_options(options, "UI"))
    warn_of_unknown_prefixes()
    wishes = read_wishes(options.models, options.engine, options.overrides)
    setproctitle("galen up")
    return asyncio.run(_up(options, wishes))


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


async def _up(options: UpOptions, wishes: list[LoadModel]) -> int:
    signals = StopSignals()
    port = free_port(options.host, options.port)
    if not wishes:
        check_packages()
    terminal = Terminal(["redis", "gateway", "jobs", "ui", *_worker_names(options)])
    own = (*_OWN_VARIABLES, *(MODEL_VARIABLES if options.models else ()))
    for name in set_variables(own):
        terminal.progress(f"{name} is ignored: `galen up` chooses it")
    with run_folder() as folder:
        family = Family(terminal)
        launcher = _Launcher(options, wishes, port, folder, terminal, family)
        try:
            return await _until_stopped(launcher, signals)
        finally:
            if launcher.is_serving:
                terminal.progress("ending everything (Ctrl-C again: at once)")
            await launcher.stop_agent()
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
    wishes: list[LoadModel]
    port: int
    folder: Path
    terminal: Terminal
    family: Family
    is_serving: bool = False
    _admin_key: str = ""
    _key: UpKey | None = None
    _agent: HostAgent | None = None
    _agent_task: "asyncio.Task[None] | None" = None
    _started: float = field(default_factory=time.monotonic)

    async def run(self) -> int:
        """Start everything, ask one question, serve until cancelled (or end, with `once`)."""
        options = self.options
        # The client's second of loading passes while the children load.
        loaded = asyncio.create_task(asyncio.to_thread(importlib.import_module, CLIENT_MODULE))
        if not self.wishes:
            self.wishes = [demo_wish(options.engine, options.overrides)]
        machine = find_machine(options.worker_python)
        layouts = choose_layouts(self.wishes, machine)
        self._key = await take_key(*self._settings())
        redis_url = await self._start_redis()
        worker = _log_options(options, "WORKER") | {
            "redis_url": redis_url,
            "drain_timeout_s": str(_DRAIN_S),
        }
        later = {name: value for name, value in options.overrides.items() if name != "workers"}
        fleet = Fleet(self.family, self.terminal, machine, worker, later)
        await self._start_gateway(redis_url)
        is_single = sum(len(layout.cards) for layout in layouts) == 1
        for wish, layout in zip(self.wishes, layouts, strict=True):
            names = ["worker"] if is_single else []
            await fleet.start(wish, layout, is_first=True, names=names)
        page_url = await self._start_page()
        self._start_agent(redis_url, fleet)
        await self._wait_until_ready()
        fleet.establish_all()
        if options.jobs and not options.once:
            await self._start_jobs(redis_url)
        self.terminal.progress(f"ready after {time.monotonic() - self._started:.1f} s")
        model_id = self.wishes[0].model_id
        key = None if self._key is None else self._key.key
        first = first_question(self._url(), model_id, options.image, options.question, key)
        await loaded
        with self.terminal.hold_logs():
            if options.ask:
                await self._ask(first)
            if not options.once:
                print_commands(self.terminal, first, is_only_model=self._is_alone())
                say_who_may_ask(self.terminal, self._settings()[0], self._key)
        if options.once:
            return 0
        await self._say_where(page_url)
        self.is_serving = True
        return await asyncio.Event().wait()

    async def _say_where(self, page_url: str | None) -> None:
        served = ", ".join(wish.model_id for wish in self.wishes)
        if page_url is not None and await is_page_there(page_url):
            self.terminal.result(f"Open {page_url} in a browser.", "bold")
        self.terminal.result(f"Serving {served} at {self._url()} until Ctrl-C.", "bold")

    def _start_agent(self, redis_url: str, fleet: Fleet) -> None:
        def on_end(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.family.give_up(CommandError(f"the agent broke ({type(error).__name__})"))

        self._agent = HostAgent(redis_url, fleet)
        self._agent_task = asyncio.create_task(self._agent.run())
        self._agent_task.add_done_callback(on_end)

    def _settings(self) -> tuple[GatewaySettings, StoreSettings]:
        """Return them as the gateway will have them."""
        gateway, store = _gateway_options(self.options), _store_options(self.options)
        return GatewaySettings(**gateway), StoreSettings(**store)  # pyright: ignore[reportArgumentType] - they convert

    async def stop_agent(self) -> None:
        """Take no orders any more, and take our key back."""
        if self._key is not None:
            await give_back(self._key, self._settings()[1])
        if self._agent is not None and self._agent_task is not None:
            self._agent_task.cancel()
            await asyncio.gather(self._agent_task, return_exceptions=True)
            await self._agent.close()

    async def _start_redis(self) -> str:
        given = self.options.redis_url
        if given is not None:
            await check_redis(given)
            return given
        await self.family.start("redis", redis_command(self.folder), is_quiet=True)
        url = embedded_url(self.folder)
        await wait_for_redis(url)
        return url

    async def _start_gateway(self, redis_url: str) -> None:
        given = GatewaySettings().admin_key
        key = self._admin_key = given.get_secret_value() if given is not None else new_key()
        leave_access(self.folder, AdminAccess(self._url(), key))
        gateway = _gateway_options(self.options) | {
            "port": str(self.port),
            "redis_url": redis_url,
            "drain_delay_s": "0",
            "drain_timeout_s": str(_DRAIN_S),
            "admin_key": key,
        }
        command, environment = service_process("gateway", gateway)
        environment |= store_environment(_store_options(self.options))
        await self.family.start("gateway", command, environment)

    async def _start_jobs(self, redis_url: str) -> None:
        """Start the job workers; they find what an earlier run has left."""
        jobs = _log_options(self.options, "JOBS") | {
            "redis_url": redis_url,
            "gateway_url": self._url(),
            "processes": str(self.options.jobs),
        }
        command, environment = service_process("jobs", jobs)
        environment |= store_environment(_store_options(self.options))
        kept = await self.family.start_kept("jobs", command, environment, self._on_jobs_end)
        kept.is_established = True

    async def _start_page(self) -> str | None:
        page = self.options.page
        if page is None or self.options.once:
            return None
        chosen = _log_options(self.options, "UI") | status_access(page, self._key, self._admin_key)
        return await start_page(self.family, self.terminal, page, self._url(), chosen)

    def _on_jobs_end(self, why: CommandError | None) -> None:
        """Batches wait then; chat goes on."""
        if why is not None:
            self.terminal.progress(f"{why.message}; batches and evaluations wait")

    async def _wait_until_ready(self) -> None:
        limit_s = self.options.start_timeout_s
        what = "the model" if len(self.wishes) == 1 else f"{len(self.wishes)} models"
        self.terminal.progress(f"waiting until the gateway and {what} are ready")
        say_again = time.monotonic() + _SAY_AGAIN_S
        try:
            async with asyncio.timeout(limit_s), httpx.AsyncClient(trust_env=False) as client:
                while not await self._is_ready(client):
                    if time.monotonic() > say_again:
                        self.terminal.progress("still waiting")
                        say_again += _SAY_AGAIN_S
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise CommandError(
                f"not ready after {limit_s:g} s; a large model may need a longer --start-timeout"
            ) from error

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        """Return whether the gateway is ready, and for each of these models."""
        try:
            ready = await client.get(self._url("readyz"))
            if ready.status_code != HTTPStatus.OK:
                return False
            if self._is_alone():
                return True
            key = {"authorization": f"Bearer {self._admin_key}"}
            listed = (await client.get(self._url("v1/models"), headers=key)).json()["data"]
        except httpx.TransportError:
            return False
        states = {model["id"]: model["state"] for model in listed}
        return all(states.get(wish.model_id) == "ready" for wish in self.wishes)

    def _is_alone(self) -> bool:
        """Whether there is one model, and nobody else's worker."""
        return self.options.redis_url is None and len(self.wishes) == 1

    async def _ask(self, first: FirstQuestion) -> None:
        """Ask the question; that it fails ends only a run with `once`."""
        try:
            await print_answer(self.terminal, first)
        except CommandError as error:
            if self.options.once:
                raise
            self.terminal.failure(error)

    def _url(self, path: str = "v1") -> str:
        return local_url(self.options.host, self.port, path)


def _gateway_options(options: UpOptions) -> dict[str, str]:
    """Return what the user chose for the gateway, by field of its settings."""
    return {"host": options.host, "port": str(options.port)} | _log_options(options, "GATEWAY")


def _worker_options(options: UpOptions) -> dict[str, str]:
    """Return what the user chose for each worker, by field of its settings."""
    chosen = {
        name: str(value)
        for name, value in options.overrides.items()
        if value is not None and name in WorkerSettings.model_fields
    }
    return chosen | _log_options(options, "WORKER")


def _store_options(options: UpOptions) -> dict[str, str]:
    """Return what the user chose for the store, by field of its settings."""
    return {} if options.data_dir is None else {"dir": str(options.data_dir.absolute())}


def _log_options(options: UpOptions, service: str) -> dict[str, str]:
    chosen: dict[str, str] = {}
    if not set_variables([f"GALEN_{service}_LOG_FORMAT"]):
        chosen["log_format"] = "console"
    if options.log_level is not None:
        chosen["log_level"] = options.log_level
    return chosen


def _worker_names(options: UpOptions) -> list[str]:
    """Return the names that workers will probably have, for the terminal's columns."""
    workers = int(options.overrides.get("workers") or 1) * max(1, len(options.models))
    return ["worker"] if workers == 1 else [f"worker {number + 1}" for number in range(workers)]
