"""Work in a thread whose result is freed with its last reference.

The future behind `asyncio.to_thread` refers to itself, so that its result, or the frames of its
exception, stay until the cyclic collector comes. With bodies of 30 MB that is too late.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


async def in_thread(work: Callable[[], R]) -> R:
    """Return what `work` returns, or raise what it raises (without the thread's frames)."""
    results: list[R] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error.with_traceback(None))

    await asyncio.to_thread(run)
    if errors:
        raise errors.pop()
    return results.pop()
