"""The wire on an empty database of the session's Redis."""

from collections.abc import AsyncIterator

import pytest

from tests.protocol.parties import Wire, open_parties


@pytest.fixture
async def wire(redis_url: str) -> AsyncIterator[Wire]:
    async for each in open_parties(redis_url):
        yield each
