"""Where an image of a request is: in the request, in an uploaded file, or at a URL.

Files and what is fetched become data URLs, so that everything behind goes one way. What does *not*
live here: fetching (`media/fetch.py`), what is then done with the image (`image_inputs.py`).
"""

import asyncio
from collections.abc import Sequence

import msgspec
import pybase64
import structlog

from services.gateway.caller import Caller
from services.gateway.file_parts import FILE_ID
from services.gateway.job_store import JobStore
from services.gateway.media.data_url import MIME_BY_FORMAT
from services.gateway.media.fetch import FetchPolicy, ImageFetcher
from services.gateway.media.image_format import sniff_format
from services.gateway.openai_schemas import ImageUrl
from services.gateway.settings import GatewaySettings
from services.gateway.threads import in_thread
from services.gateway.vision_files import VISION
from services.protocol.errors import ErrorCode, NotFoundError, RequestError, UnavailableError
from services.store.file_records import find_file

_log = structlog.get_logger()

_AT_ONCE = 2
"""Of one request: bounds what it holds in memory."""


class ImageSources:
    """One per gateway."""

    def __init__(self, settings: GatewaySettings, store: JobStore) -> None:
        policy = FetchPolicy(
            settings.image_hosts, settings.image_networks, settings.max_image_bytes
        )
        self._fetcher = ImageFetcher(policy) if policy.rules else None
        self._max_images = settings.max_images
        self._max_bytes = settings.max_body_bytes
        self._store = store

    async def close(self) -> None:
        """Drop open connections."""
        if self._fetcher is not None:
            await self._fetcher.close()

    def must_bring(self, images: Sequence[tuple[ImageUrl, str]], max_images: int) -> bool:
        """Whether `brought` has anything to do."""
        if len(images) > min(max_images, self._max_images):
            return False
        return any(self._is_elsewhere(image.url) for image, _ in images)

    async def brought(
        self, images: Sequence[tuple[ImageUrl, str]], caller: Caller, max_images: int
    ) -> Sequence[tuple[ImageUrl, str]]:
        """Return the images with data URLs, each with the path of its URL.

        What several parts name is brought once.

        Args:
            max_images: more are given back as they are: who counts them refuses them.

        Raises:
            RequestError: one is not the caller's, may not be fetched, or is no image; or all of
                them are more than a request itself could carry.
            UnavailableError: the store is away.
        """
        if not self.must_bring(images, max_images):
            return images
        errand = _Errand(caller, self._max_bytes)
        places = {image.url: param for image, param in reversed(images)}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    url: group.create_task(self._url_of(url, param, errand))
                    for url, param in places.items()
                }
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        return [
            (msgspec.structs.replace(image, url=tasks[image.url].result()), param)
            for image, param in images
        ]

    def _is_elsewhere(self, url: str) -> bool:
        if FILE_ID.fullmatch(url):
            return True
        return self._fetcher is not None and url[:5].lower() != "data:"

    async def _url_of(self, url: str, param: str, errand: "_Errand") -> str:
        if not self._is_elsewhere(url):
            return url
        async with errand.places:
            errand.check(param)
            if self._fetcher is None or FILE_ID.fullmatch(url):
                content = await self._read(url, param, errand.caller)
            else:
                content = await self._fetcher.fetch(url, param)
            errand.num_bytes += len(content)
            errand.check(param)
        try:
            mime = MIME_BY_FORMAT[sniff_format(content)]
        except RequestError:
            raise RequestError(
                ErrorCode.IMAGE_FETCH_FAILED, "what the URL leads to is no image", param=param
            ) from None
        return await in_thread(
            lambda: f"data:{mime};base64,{pybase64.b64encode(content).decode('ascii')}"
        )

    async def _read(self, file_id: str, param: str, caller: Caller) -> bytes:
        async with self._store.begin() as session:
            row = await find_file(session, caller.tenant_id, file_id)
        if row is None:
            raise NotFoundError(
                ErrorCode.FILE_NOT_FOUND,
                f"there is no file of this id; upload the image with the purpose {VISION!r}",
                param=param,
            )
        if row.purpose != VISION:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"the file has the purpose {row.purpose!r}; an image needs {VISION!r}",
                param=param,
            )
        try:
            return await in_thread(lambda: b"".join(self._store.files.pieces(row.key)))
        except OSError as error:
            _log.warning("file.unreadable", file_id=row.id, cause=type(error).__name__)
            raise UnavailableError(
                ErrorCode.STORAGE_UNAVAILABLE, "the file cannot be read at the moment"
            ) from None


class _Errand:
    """What one request has had brought so far."""

    def __init__(self, caller: Caller, max_bytes: int) -> None:
        self.caller = caller
        self.places = asyncio.Semaphore(_AT_ONCE)
        self.num_bytes = 0
        self._max_bytes = max_bytes

    def check(self, param: str) -> None:
        """Raise RequestError where it is too much."""
        if self.num_bytes > self._max_bytes:
            raise RequestError(
                ErrorCode.IMAGE_TOO_LARGE,
                f"the images of the request have more than {self._max_bytes} bytes in all",
                param=param,
            )
