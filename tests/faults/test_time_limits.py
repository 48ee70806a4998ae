"""What a client sees of the gateway's clock: the deadline of a request, and pings in a silence."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.load import assert_all_exact, assert_correct
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

_DEADLINE_S = 4.0
_PING_AFTER_S = 1.0
_CLOCK_S = 1.0
"""The gateway looks for what is due once a second."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hasty_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A gateway with little patience."""
    settings = {
        "GALEN_GATEWAY_REQUEST_TIMEOUT_S": str(_DEADLINE_S),
        "GALEN_GATEWAY_PING_AFTER_S": str(_PING_AFTER_S),
    }
    folder = tmp_path_factory.mktemp("hasty-stack")
    async with Stack(folder, num_workers=1, settings=settings) as stack:
        yield stack


async def test_request_beyond_its_deadline_is_504_and_runs_no_longer(hasty_stack: Stack):
    record = await Client(hasty_stack.port).ask("[[n=4 t=60000]]", stream=False)
    assert_correct([record])
    assert (record.status, record.error_code) == (504, "timeout")
    assert _DEADLINE_S <= record.events[-1].at - record.invoked <= _DEADLINE_S + 2 * _CLOCK_S
    await eventually(lambda: not hasty_stack.leftovers(), 3.0, "an idle worker")


async def test_stream_beyond_its_deadline_ends_with_an_error_event(hasty_stack: Stack):
    record = await Client(hasty_stack.port).ask("[[n=6000 t=0 d=20]]")
    assert_correct([record])
    assert (record.status, record.error_code) == (200, "timeout")
    assert record.num_tokens > 0
    assert _DEADLINE_S <= record.events[-1].at - record.invoked <= _DEADLINE_S + 2 * _CLOCK_S
    await eventually(lambda: not hasty_stack.leftovers(), 3.0, "an idle worker")


async def test_silent_stream_gets_pings(hasty_stack: Stack):
    record = await Client(hasty_stack.port).ask("[[n=2 t=0 d=2500]]")
    assert_all_exact([record])
    assert "ping" in [event.kind for event in record.events]


async def test_stream_that_speaks_gets_no_pings(hasty_stack: Stack):
    record = await Client(hasty_stack.port).ask("[[n=30 t=0 d=100]]")
    assert_all_exact([record])
    assert "ping" not in [event.kind for event in record.events]
