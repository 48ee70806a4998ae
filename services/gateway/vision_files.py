"""Uploaded images: what is checked when they come; and the end of all files that have one.

What does *not* live here: their way into a request (`image_sources.py`).
"""

import asyncio
from typing import BinaryIO

import structlog

from services.gateway.job_store import STORE_FAILED, JobStore, unbroken
from services.gateway.media.image_format import sniff_format
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, TooLargeError
from services.store.feedback_records import voted_files
from services.store.file_records import expired_files, remove_file
from services.store.job_records import is_in_use

_log = structlog.get_logger()

VISION = "vision"
"""The purpose of an uploaded image."""
_HEAD_BYTES = 4096
_SWEEP_EVERY_S = 3600.0
_DAY_MS = 86_400_000
_AT_A_TIME = 100


def check_vision_file(content: BinaryIO, num_bytes: int, most_bytes: int) -> None:
    """Raise RequestError or TooLargeError unless an upload begins as an image of a kind we take."""
    if num_bytes > most_bytes:
        raise TooLargeError(
            ErrorCode.REQUEST_TOO_LARGE,
            f"the image has {num_bytes} bytes; at most {most_bytes} are taken",
            param="file",
        )
    sniff_format(content.read(_HEAD_BYTES))


async def sweep_forever(store: JobStore, days: int) -> None:
    """Remove files that have expired.

    Args:
        days: that images stay whose record says no end, as those from before it could; 0: for ever.
    """
    while True:
        try:
            if num := await unbroken(remove_expired(store, days * _DAY_MS or None)):
                _log.info("files.removed", count=num)
        except (*STORE_FAILED, OSError) as error:
            _log.warning("files.not.removed", cause=type(error).__name__)
        await asyncio.sleep(_SWEEP_EVERY_S)


async def remove_expired(store: JobStore, age_ms: int | None) -> int:
    """Remove files that have expired, and return how many there were.

    Those that a vote names stay as long as it does: the export reads them; those that a job reads
    until it has ended. The content goes before its record: what fails in between is found again the
    next time.

    Args:
        age_ms: of images whose record says no end; None: they stay.

    Raises:
        UnavailableError, OSError: the database, or a file, cannot be reached.
    """
    num_removed, last = 0, None
    while True:
        async with store.begin() as session:
            kept = await voted_files(session)
            old = await expired_files(session, VISION, age_ms, _AT_A_TIME, last)
            kept.update([row.id for row in old if await is_in_use(session, row.id)])
        for row in old:
            if row.id in kept:
                continue
            await in_thread(lambda key=row.key: store.files.remove(key))
            async with store.begin() as session:
                await remove_file(session, row.tenant_id, row.id)
            num_removed += 1
        if len(old) < _AT_A_TIME:
            return num_removed
        last = old[-1]
