"""Uploaded images: what is checked when they come, and their end.

What does *not* live here: their way into a request (`image_sources.py`).
"""

import asyncio
from typing import BinaryIO

import structlog

from services.gateway.job_store import JobStore
from services.gateway.media.image_format import sniff_format
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, TooLargeError, UnavailableError
from services.store.file_records import remove_older_files

_log = structlog.get_logger()

VISION = "vision"
"""The purpose of an uploaded image."""
_HEAD_BYTES = 4096
_SWEEP_EVERY_S = 3600.0
_DAY_MS = 86_400_000


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
            async with store.begin() as session:
                keys = await remove_older_files(session, VISION, days * _DAY_MS)
            for key in keys:
                await in_thread(lambda key=key: store.files.remove(key))
            if keys:
                _log.info("files.removed", purpose=VISION, count=len(keys))
        except (UnavailableError, OSError) as error:
            _log.warning("files.not.removed", purpose=VISION, cause=type(error).__name__)
        await asyncio.sleep(_SWEEP_EVERY_S)
