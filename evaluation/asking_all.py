"""Asks many questions at once, and keeps what comes back at once.

What does *not* live here: one question (`answering.py`, `judging/asking.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from evaluation.errors import EvaluationError
from services.endpoint_client.client import EndpointError
from services.endpoint_client.record_file import RecordFile


class _Known(Protocol):
    @property
    def id(self) -> str: ...


_Asked = TypeVar("_Asked", bound=_Known)


async def ask_all(
    asked: Sequence[_Asked],
    ask: Callable[[_Asked], Awaitable[Mapping[str, object]]],
    kept: RecordFile,
    advance: Callable[[_Asked, Mapping[str, object] | None], None],
    *,
    at_once: int,
) -> Mapping[str, str]:
    """Ask what has no record yet; returns why others have none, by their ids.

    Args:
        kept: by the ids of what is asked.
        advance: is told of each one, and its record; None: it has none.

    Raises:
        EndpointError: nothing will be answered: a wrong key, no such host or model.
        OSError: a record cannot be kept.
    """
    failed: dict[str, str] = {}
    waiting = iter([each for each in asked if each.id not in kept.records])

    async def ask_on() -> None:
        for each in waiting:  # shared by all: each takes the next one
            try:
                record = await ask(each)
            except (EvaluationError, EndpointError) as error:
                if isinstance(error, EndpointError) and error.is_final:
                    raise
                failed[each.id] = str(error)
                advance(each, None)
            else:
                kept.add(record)
                advance(each, record)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(ask_on())
    except BaseExceptionGroup as errors:  # of all that failed at once, the first says why
        raise errors.exceptions[0] from None
    return failed
