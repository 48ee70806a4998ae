"""The stack that the fault tests share, how often they run, and the table of what they measured."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.history import Recovery
from tests.support.stack import Stack

_REPETITIONS = "--fault-repetitions"
_REQUESTS = "--fault-requests"
_DEFAULTS = {_REPETITIONS: 1, _REQUESTS: 50}
"""Stand here too, because a run of all tests meets this file after it has read its options."""


@dataclass(slots=True)
class Measurements:
    """What the rows of the fault matrix measured; printed at the end."""

    lines: list[str] = field(default_factory=list)

    def note(self, row: str, **figures: object) -> None:
        """Add figures of one run."""
        shown = (f"{k}={v:.2f}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        self.lines.append(f"{row:32} {' '.join(shown)}")

    def note_recovery(self, row: str, found: Recovery, **figures: object) -> None:
        """Add how the requests that were open at the fault went on."""
        self.note(
            row,
            open=found.num_open,
            next_token_s=found.next_token_s,
            terminal_s=found.terminal_s,
            errors=found.num_errors,
            **figures,
        )


_MEASUREMENTS = pytest.StashKey[Measurements]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(_REPETITIONS, type=int, help="runs of each fault test (1)")
    group.addoption(_REQUESTS, type=int, help="requests per run of a fault test (50)")


def _option(config: pytest.Config, name: str) -> int:
    return config.getoption(name, default=None) or _DEFAULTS[name]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MEASUREMENTS] = Measurements()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(_option(metafunc.config, _REPETITIONS)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the figures of one of several processes (pytest-xdist) to the one that prints them."""
    config: Any = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["measurements"] = config.stash[_MEASUREMENTS].lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    lines = getattr(node, "workeroutput", {}).get("measurements", [])
    node.config.stash[_MEASUREMENTS].lines.extend(lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[_MEASUREMENTS].lines
    if lines:
        terminalreporter.section("what the faults cost")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Measurements:
    """Takes the figures of a row."""
    return pytestconfig.stash[_MEASUREMENTS]


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
