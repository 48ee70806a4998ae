"""Preprocessed images in Redis, by content: how they are named, packed, written and read.

The gateway writes, the worker reads; an image lives for `ttl_s` after its last use by a request.
Bytes of images are here only, never in a queue entry. What does *not* live here: decoding and
preprocessing (`gateway/media/`), loading for an engine (`worker/images.py`).
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Generic, Literal, Protocol, TypeVar

import msgspec
from redis.exceptions import OutOfMemoryError

from services.protocol import keys
from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode, OverloadedError, UnavailableError
from services.protocol.messages import ProtocolError
from services.protocol.wire import RedisWire

PACKED_VERSION = 1
MAX_STORED_BYTES = 1024 * 1024
"""Of one image's data: Redis is one thread, and 1 MiB holds it for about a millisecond."""

ImageEncoding = Literal["rgb8", "png", "jpeg"]

_RETRY_AFTER_S = 2.0


class StoredImage(msgspec.Struct, frozen=True, array_like=True):
    """An image as it lies in the store.

    Args:
        encoding: `rgb8` is 3 bytes per pixel, row by row, without padding.
    """

    version: int
    encoding: ImageEncoding
    width: int
    height: int
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredImage)


def image_key(
    tenant_id: str, mode: str, width: int, height: int, preprocessing_version: int, data: bytes
) -> str:
    """Return the SHA-256 that names an image, in hex.

    Each field is preceded by its length, so that no two different images share a preimage: pixels
    alone would make 30 x 100 the same image as 100 x 30 (CVE-2025-46722), and without the tenant
    one could ask whether another has sent an image.
    """
    digest = hashlib.sha256()
    for text in (tenant_id, mode, str(width), str(height), str(preprocessing_version)):
        field = text.encode()
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)
    return digest.hexdigest()


def pack_image(encoding: ImageEncoding, width: int, height: int, data: bytes) -> bytes:
    """Return the bytes to store."""
    return _encoder.encode(StoredImage(PACKED_VERSION, encoding, width, height, data))


def unpack_image(blob: bytes) -> StoredImage:
    """Read what `pack_image` wrote; raises ProtocolError for anything else."""
    try:
        image = _decoder.decode(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(type(error).__name__) from error
    if image.version != PACKED_VERSION:
        raise ProtocolError(f"image version {image.version!r}, ours is {PACKED_VERSION}")
    if image.encoding == "rgb8" and len(image.data) != 3 * image.width * image.height:
        raise ProtocolError("the length of the pixels does not fit the size of the image")
    return image


class ImageStore:
    """Packed images in Redis.

    Args:
        wire: of its own, so that no token waits behind an image; owned by the caller.
        ttl_s: lifetime after the last `put` or `refresh`, seconds.

    Every method raises UnavailableError when Redis cannot be reached, and `put` OverloadedError
    when it is full.
    """

    def __init__(self, wire: RedisWire, ttl_s: int = keys.IMAGE_TTL_S) -> None:
        self._wire = wire
        self._ttl_s = ttl_s

    async def put(self, key: str, blob: bytes) -> None:
        """Store `blob`, or renew the lifetime of the one there: same key, same content."""
        name = keys.image(key)
        with _redis_errors():
            await asyncio.gather(
                self._wire.execute_command("SET", name, blob, "NX", "EX", self._ttl_s),
                self._wire.execute_command("EXPIRE", name, self._ttl_s),
            )

    async def refresh(self, key: str) -> bool:
        """Renew the lifetime of an image; False when it is not in the store any more."""
        with _redis_errors():
            name = keys.image(key)
            return bool(await self._wire.execute_command("EXPIRE", name, self._ttl_s))

    async def get(self, key: str) -> bytes | None:
        """Return the packed image, or None when it is not in the store any more."""
        with _redis_errors():
            return await self._wire.execute_command("GET", keys.image(key))


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


_V = TypeVar("_V", bound=_Sized)


class ByteBoundedCache(Generic[_V]):
    """Least-recently-used values, `max_bytes` of them in all; larger ones are not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._values: OrderedDict[str, _V] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes of all values that are kept."""
        return self._num_bytes

    def get(self, key: str) -> _V | None:
        """Return the value and make it the youngest."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: str, value: _V) -> None:
        """Keep `value`, dropping the oldest ones where there is no room."""
        replaced = self._values.pop(key, None)
        if replaced is not None:
            self._num_bytes -= replaced.num_bytes
        if value.num_bytes > self._max_bytes:
            return
        self._values[key] = value
        self._num_bytes += value.num_bytes
        while self._num_bytes > self._max_bytes:
            _, dropped = self._values.popitem(last=False)
            self._num_bytes -= dropped.num_bytes


@contextmanager
def _redis_errors() -> Generator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        raise OverloadedError(
            ErrorCode.OVERLOADED, "the image store is full; try again", retry_after_s=_RETRY_AFTER_S
        ) from error
    except REDIS_AWAY as error:
        raise UnavailableError(
            ErrorCode.BACKEND_UNAVAILABLE,
            "the image store cannot be reached; try again",
            retry_after_s=_RETRY_AFTER_S,
        ) from error
