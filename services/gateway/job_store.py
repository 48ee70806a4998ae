"""The gateway's side of the store: opened when it is first needed, and again after a failure.

Chat does not wait for it, and goes on without it.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from services.protocol.errors import ErrorCode, UnavailableError
from services.store.database import DATABASE_AWAY, Database, is_away
from services.store.file_store import FileStore
from services.store.settings import StoreSettings

_log = structlog.get_logger()

STORE_FAILED = (UnavailableError, SQLAlchemyError)
"""What a loop in the background outlives, and tries again. In a request the second is a bug."""

_LAST_WORK_S = 5.0
_T = TypeVar("_T")


async def unbroken(work: Coroutine[Any, Any, _T]) -> _T:
    """Do work on the database that the gateway's end does not break off halfway.

    A write that was broken off after it was committed would be done again. A cancelled call gives
    the work 5 s, and is cancelled after that.
    """
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing], timeout=_LAST_WORK_S)
        if not doing.cancel() and not doing.cancelled():
            doing.exception()  # nobody else asks
        raise


class JobStore:
    """Database and files."""

    def __init__(self, settings: StoreSettings) -> None:
        self.files = FileStore(settings.files)
        self._database = Database(settings.database)
        self._is_open = False
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:
        """Give a session, written at the end.

        Raises:
            UnavailableError: the database cannot do its work.
            SQLAlchemyError: it can, and was used wrongly: a bug of ours.
        """
        try:
            await self._open()
            async with self._database.begin() as session:
                yield session
        except DATABASE_AWAY as error:
            if not is_away(error):
                raise
            _log.warning("store.away", cause=type(error).__name__)
            raise UnavailableError(
                ErrorCode.STORAGE_UNAVAILABLE,
                "the database is not reachable at the moment; try again later",
                retry_after_s=5.0,
            ) from error

    async def close(self) -> None:
        """Let go of the database."""
        await self._database.close()

    async def _open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self._database.open()
                self._is_open = True
