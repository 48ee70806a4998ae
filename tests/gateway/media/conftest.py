from collections.abc import AsyncIterator

import pytest

from services.gateway.media.decoder import ImageDecoder


@pytest.fixture
async def decoder() -> AsyncIterator[ImageDecoder]:
    async with ImageDecoder(num_children=1) as one_child:
        yield one_child
