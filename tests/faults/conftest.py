"""The stack that the fault tests share, and how often they run."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.measurements import MEASUREMENTS, Measurements
from tests.support.stack import Stack

_REPETITIONS = "--fault-repetitions"
_REQUESTS = "--fault-requests"
_DEFAULTS = {_REPETITIONS: 1, _REQUESTS: 50}
"""Stand here too, because a run of all tests meets this file after it has read its options."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(_REPETITIONS, type=int, help="runs of each fault test (1)")
    group.addoption(_REQUESTS, type=int, help="requests per run of a fault test (50)")


def _option(config: pytest.Config, name: str) -> int:
    return config.getoption(name, default=None) or _DEFAULTS[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(_option(metafunc.config, _REPETITIONS)))


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Measurements:
    """Takes the figures of a row."""
    return pytestconfig.stash[MEASUREMENTS]


@pytest.fixture(scope="session")
def num_requests(pytestconfig: pytest.Config) -> int:
    """Requests per run."""
    return _option(pytestconfig, _REQUESTS)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Four workers and a gateway that outlive every fault."""
    async with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def stack(shared_stack: Stack) -> AsyncIterator[Stack]:
    """The shared stack, healthy before a test, and asserted to heal by itself after it."""
    await shared_stack.healthy()
    yield shared_stack
    await shared_stack.healthy()


@pytest.fixture
def client(stack: Stack) -> Client:
    """A client of the shared stack's gateway."""
    return Client(stack.port)
