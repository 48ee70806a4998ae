"""Images of claimed requests: from the store to the PIL images that an engine takes.

What does *not* live here: resizing (done once, by the gateway) and tensors (the engines).
"""

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from PIL import Image

from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode, GalenError, WorkerError
from services.protocol.image_store import (
    ByteBoundedCache,
    ImageStore,
    StoredImage,
    unpack_image,
)
from services.protocol.messages import (
    Failed,
    GenerationRequest,
    ImagePart,
    ImageRef,
    ProtocolError,
)

_log = structlog.get_logger()

_BYTES_PER_PIXEL = 4  # Pillow pads RGB to 4 bytes


@dataclass(frozen=True, slots=True)
class _Loaded:
    image: Image.Image

    @property
    def num_bytes(self) -> int:
        return self.image.width * self.image.height * _BYTES_PER_PIXEL


class ImageLoader:
    """Loads images and keeps the last ones.

    Args:
        cache_bytes: memory of the images that are kept, least recently used ones dropped first.
        on_image: called with where an image comes from: `store` or `kept`.
    """

    def __init__(
        self,
        store: ImageStore,
        cache_bytes: int = 256 * 1024 * 1024,
        on_image: Callable[[str], None] = lambda _source: None,
    ) -> None:
        self._store = store
        self._on_image = on_image
        self._cache: ByteBoundedCache[_Loaded] = ByteBoundedCache(cache_bytes)

    async def load(self, ref: ImageRef) -> Image.Image:
        """Return the image as RGB; it is shared, so nobody may change it.

        Raises:
            WorkerError: INPUT_EXPIRED when the store has it no more, PROTOCOL_MISMATCH when it was
                written by another version.
            UnavailableError: the store cannot be reached.
        """
        cached = self._cache.get(ref.sha256)
        self._on_image("store" if cached is None else "kept")
        if cached is not None:
            return cached.image
        blob = await self._store.get(ref.sha256)
        if blob is None:
            raise WorkerError(
                ErrorCode.INPUT_EXPIRED,
                "an image of the request waited too long and has expired; send the request again",
            )
        image = await asyncio.to_thread(_unpack, blob, ref)
        self._cache.put(ref.sha256, _Loaded(image))
        return image


async def images_or_failure(
    loader: ImageLoader, request: GenerationRequest
) -> tuple[Image.Image, ...] | Failed:
    """Return the images of a request in its order, or the event that it ends with."""
    refs = [p.image for m in request.messages for p in m.parts if isinstance(p, ImagePart)]
    try:
        return tuple([await loader.load(ref) for ref in refs])
    except GalenError as error:
        return Failed(request.request_id, request.attempt, error.code, error.message)
    except REDIS_AWAY:
        return _no_image(request, ErrorCode.BACKEND_UNAVAILABLE)
    except Exception as error:  # noqa: BLE001 - the border of a request
        _log.error("images.loading.failed", error=type(error).__name__)
        return _no_image(request, ErrorCode.INTERNAL_ERROR)


def _no_image(request: GenerationRequest, code: ErrorCode) -> Failed:
    message = "the images of the request could not be loaded; send it again"
    return Failed(request.request_id, request.attempt, code, message)


def _unpack(blob: bytes, ref: ImageRef) -> Image.Image:
    try:
        stored = unpack_image(blob)
        image = _to_pil(stored)
    except (ProtocolError, OSError, SyntaxError, ValueError) as error:
        raise WorkerError(
            ErrorCode.PROTOCOL_MISMATCH, "a stored image cannot be read by this worker"
        ) from error
    if image.mode != "RGB" or image.size != (ref.width, ref.height):
        raise WorkerError(
            ErrorCode.PROTOCOL_MISMATCH, "a stored image is not the one that the request names"
        )
    return image


def _to_pil(stored: StoredImage) -> Image.Image:
    if stored.encoding == "rgb8":
        return Image.frombytes("RGB", (stored.width, stored.height), stored.data)
    image = Image.open(io.BytesIO(stored.data), formats=[stored.encoding])
    image.load()
    return image
