"""Two ways to wait that asyncio spells longer."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_set(event: asyncio.Event) -> None:
    """Return when the event is set."""
    await event.wait()


async def within(awaitable: Coroutine[Any, Any, object], timeout_s: float) -> None:
    """Wait for at most `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await awaitable
    except TimeoutError:
        return
