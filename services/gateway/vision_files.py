"""Uploaded images: what is checked when they come, and their end.

What does *not* live here: their way into a request (`image_sources.py`).
"""

import asyncio
from typing import BinaryIO

import structlog

from services.gateway.job_store import STORE_FAILED, JobStore
from services.gateway.media.image_format import sniff_format
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, TooLargeError
from services.store.feedback_records import voted_files
from services.store.file_records import older_files, remove_file

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
    """Remove images that were uploaded more than so many days ago; 0: never."""
    while days:
        try:
            if num := await remove_expired(store, days * _DAY_MS):
                _log.info("files.removed", purpose=VISION, count=num)
        except (*STORE_FAILED, OSError) as error:
            _log.warning("files.not.removed", purpose=VISION, cause=type(error).__name__)
        await asyncio.sleep(_SWEEP_EVERY_S)


async def remove_expired(store: JobStore, age_ms: int) -> int:
    """Remove images older than `age_ms`, and return how many there were.

    Those that a vote names stay as long as it does: the export reads them. The content goes before
    its record: what fails in between is found again the next time.

    Raises:
        UnavailableError, OSError: the database, or a file, cannot be reached.
    """
    num_removed, last = 0, None
    while True:
        async with store.begin() as session:
            kept = await voted_files(session)
            old = await older_files(session, VISION, age_ms, _AT_A_TIME, last)
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
