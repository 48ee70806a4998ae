"""Asks many questions at once, and keeps what comes back at once.

What does *not* live here: one question: what is sent, and what its record is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from services.endpoint_client.client import EndpointError

Record = Mapping[str, object]


class Known(Protocol):
    """What can be asked."""

    @property
    def id(self) -> str:
        """Of its record."""
        ...


class Kept(Protocol):
    """Where records go, by the ids of what is asked."""

    def __contains__(self, key: str) -> bool: ...

    def add(self, record: Record) -> None:
        """Keep a record for good; raises OSError where it cannot."""
        ...


_Asked = TypeVar("_Asked", bound=Known)


@dataclass(frozen=True, slots=True)
class Asking(Generic[_Asked]):
    """How each one is asked.

    Args:
        mistakes: errors that say something of one question alone, beside an endpoint's.
    """

    ask: Callable[[_Asked], Awaitable[Record]]
    at_once: int
    mistakes: tuple[type[Exception], ...] = ()


async def ask_all(
    asked: Iterable[_Asked],
    asking: Asking[_Asked],
    kept: Kept,
    advance: Callable[[_Asked, Record | None], None],
) -> Mapping[str, str]:
    """Ask what has no record yet; returns why others have none, by their ids.

    Args:
        asked: read as it is asked, never as a whole.
        advance: is told of each one, and its record; None: it has none.

    Raises:
        EndpointError: nothing will be answered: a wrong key, no such host or model.
        OSError: a record cannot be kept.
    """
    failed: dict[str, str] = {}
    waiting = iter(each for each in asked if each.id not in kept)

    async def ask_on() -> None:
        for each in waiting:  # shared by all: each takes the next one
            try:
                record = await asking.ask(each)
            except (EndpointError, *asking.mistakes) as error:
                if isinstance(error, EndpointError) and error.is_final:
                    raise
                failed[each.id] = str(error)
                advance(each, None)
            else:
                kept.add(record)
                advance(each, record)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(asking.at_once):
                group.create_task(ask_on())
    except BaseExceptionGroup as errors:  # of all that failed at once, the first says why
        raise errors.exceptions[0] from None
    return failed
