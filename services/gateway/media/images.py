"""From the image URLs of one request to references into the image store.

Each image is decoded once and uploaded once: what comes again only has its lifetime renewed. What
does *not* live here: finding the URLs in a request (`openai_schemas.py`), decoding (`decoder.py`).
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from services.gateway.media.data_url import MAX_IMAGE_BYTES, DataUrl, parse_data_url
from services.gateway.media.decode_messages import PLAIN, DecodedImage, Preparation
from services.gateway.media.decoder import ImageDecoder
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.image_store import ByteBoundedCache, ImageStore, image_key, pack_image
from services.protocol.messages import ImageRef

_HASH_STEP = 1024 * 1024
# Shorter URLs are hashed in less time than a thread takes to start on it.
_HASH_IN_LOOP_LENGTH = 32 * 1024


ImageSource = Literal["decoded", "kept", "shared"]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One image of a request.

    Args:
        url: of the `image_url` part.
        param: where it stands, for error messages: `messages[0].content[1].image_url.url`.
        fingerprint: of all that decides its pixels but the file.
    """

    url: str
    param: str
    preparation: Preparation = PLAIN
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits on the images of one request.

    Args:
        max_images: in all messages; a model's own limit may be lower.
        max_total_pixels: of all images as sent, repeated ones counted each time.
        max_image_bytes: of one image, decoded from base64.
    """

    max_images: int = 16
    max_total_pixels: int = 64_000_000
    max_image_bytes: int = MAX_IMAGE_BYTES


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image as it goes to the store; `blob` is kept in case the store loses it."""

    ref: ImageRef
    blob: bytes
    source_pixels: int

    @property
    def num_bytes(self) -> int:
        return len(self.blob)


class ImageResolver:
    """Turns image URLs into references; one per gateway process.

    Args:
        cache_bytes: of packed images that are kept here, least recently used ones dropped first.
        on_image: called with where each image came from: a decoder, the cache, or the decoding that
            another request had asked for.
    """

    def __init__(
        self,
        decoder: ImageDecoder,
        store: ImageStore,
        *,
        limits: ImageLimits | None = None,
        cache_bytes: int = 64 * 1024 * 1024,
        on_image: Callable[[ImageSource], None] = lambda _source: None,
    ) -> None:
        self._on_image = on_image
        self._decoder = decoder
        self._store = store
        self.limits = limits or ImageLimits()
        self._cache: ByteBoundedCache[_Prepared] = ByteBoundedCache(cache_bytes)
        self._preparing: dict[str, asyncio.Task[_Prepared]] = {}

    async def resolve(
        self,
        images: Sequence[ImageInput],
        *,
        tenant_id: str,
        max_images: int | None = None,
    ) -> list[ImageRef]:
        """Return a reference per image, in order; all of them are in the store then.

        The images are decoded concurrently, equal ones once; the first error ends the rest.

        Args:
            max_images: the model's own limit, where it has one.

        Raises:
            RequestError: an image is not taken; `param` says which.
            OverloadedError, UnavailableError: decoder or store cannot do it now.
        """
        if not images:
            return []
        check_count(images, self.limits, max_images)
        urls = [
            parse_data_url(image.url, max_bytes=self.limits.max_image_bytes, param=image.param)
            for image in images
        ]
        digests = await _cache_keys(urls, images, tenant_id)
        budget = PixelBudget(self.limits.max_total_pixels)
        repeats = {digest: digests.count(digest) for digest in digests}
        first = {digest: place for place, digest in reversed(list(enumerate(digests)))}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    digest: group.create_task(
                        self._resolve_one(
                            _Job(urls[place], images[place], digest, repeats[digest]),
                            tenant_id,
                            budget,
                        )
                    )
                    for digest, place in first.items()
                }
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        return [tasks[digest].result() for digest in digests]

    async def preview(self, image: ImageInput) -> DecodedImage:
        """Return an image as its model sees it, as PNG; it is neither stored nor kept."""
        url = parse_data_url(image.url, max_bytes=self.limits.max_image_bytes, param=image.param)
        try:
            return await self._decoder.decode(
                url.url, url.declared_mime, image.preparation,
                payload_start=url.payload_start, is_preview=True,
            )  # fmt: skip
        except RequestError as error:
            raise _at(image.param, error) from None

    async def _resolve_one(self, job: "_Job", tenant_id: str, budget: "PixelBudget") -> ImageRef:
        prepared = self._cache.get(job.digest)
        if prepared is not None:
            self._on_image("kept")
            budget.spend(prepared.source_pixels * job.repeats, job.param)
            if not await self._store.refresh(prepared.ref.sha256):
                await self._store.put(prepared.ref.sha256, prepared.blob)
            return prepared.ref
        try:
            prepared = await self._prepare_once(job, tenant_id)
        except RequestError as error:
            raise _at(job.param, error) from None
        budget.spend(prepared.source_pixels * job.repeats, job.param)
        return prepared.ref

    async def _prepare_once(self, job: "_Job", tenant_id: str) -> "_Prepared":
        """Decode and store an image; requests that bring it at the same time share one decoding."""
        preparing = self._preparing.get(job.digest)
        self._on_image("decoded" if preparing is None else "shared")
        if preparing is None:
            preparing = asyncio.create_task(self._prepare(job, tenant_id))
            self._preparing[job.digest] = preparing
            preparing.add_done_callback(lambda task: self._prepared(job.digest, task))
        return await asyncio.shield(preparing)

    def _prepared(self, digest: str, task: "asyncio.Task[_Prepared]") -> None:
        del self._preparing[digest]
        if not task.cancelled():
            task.exception()  # seen, even where all who waited for it have gone

    async def _prepare(self, job: "_Job", tenant_id: str) -> "_Prepared":
        decoded = await self._decoder.decode(
            job.url.url,
            job.url.declared_mime,
            job.image.preparation,
            payload_start=job.url.payload_start,
        )
        prepared = await in_thread(lambda: _prepare(decoded, tenant_id, job.image.fingerprint))
        await self._store.put(prepared.ref.sha256, prepared.blob)
        self._cache.put(job.digest, prepared)
        return prepared


def check_count(images: Sequence[ImageInput], limits: ImageLimits, max_images: int | None) -> None:
    """Raise RequestError where a request has more images than it, or the model, may have."""
    allowed = limits.max_images if max_images is None else min(limits.max_images, max_images)
    if len(images) > allowed:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES,
            f"the request has {len(images)} images; at most {allowed} are taken",
            param=images[allowed].param,
        )


@dataclass(frozen=True, slots=True)
class _Job:
    url: DataUrl
    image: ImageInput
    digest: str
    repeats: int

    @property
    def param(self) -> str:
        return self.image.param


def _at(param: str, error: RequestError) -> RequestError:
    """Return an error with its place: the URL, or the choice beside it."""
    if error.param:
        param = f"{param.removesuffix('.url')}.preprocess.{error.param}"
    return RequestError(error.code, error.message, param=param)


class PixelBudget:
    """What is left of a request's pixels; spent image by image, as their sizes become known."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._left = max_pixels

    def spend(self, num_pixels: int, param: str) -> None:
        """Take pixels off; raises RequestError where too few are left."""
        self._left -= num_pixels
        if self._left < 0:
            raise RequestError(
                ErrorCode.TOO_MANY_IMAGES,
                f"the images of the request have more than {self._max_pixels} pixels in all",
                param=param,
            )


async def _cache_keys(
    urls: Sequence[DataUrl], images: Sequence[ImageInput], tenant_id: str
) -> list[str]:
    salts = [msgspec.msgpack.encode((tenant_id, image.preparation)) for image in images]
    texts = [url.url for url in urls]
    if sum(map(len, texts)) <= _HASH_IN_LOOP_LENGTH:
        return _hash_all(salts, texts)
    return await in_thread(lambda: _hash_all(salts, texts))


def _hash_all(salts: Sequence[bytes], texts: Sequence[str]) -> list[str]:
    return [_hash(salt, text) for salt, text in zip(salts, texts, strict=True)]


def _hash(salt: bytes, text: str) -> str:
    digest = hashlib.sha256(salt)  # a MessagePack value ends itself: no length is needed
    for position in range(0, len(text), _HASH_STEP):
        digest.update(text[position : position + _HASH_STEP].encode("ascii"))
    return digest.hexdigest()


def key_of(decoded: DecodedImage, tenant_id: str, fingerprint: str) -> str:
    """Return what a tenant's image is called in the store, and in the audit."""
    return image_key(
        tenant_id,
        f"{decoded.mode}/{decoded.encoding}/{fingerprint}",
        decoded.width,
        decoded.height,
        decoded.preprocessing_version,
        decoded.data,
    )


def _prepare(decoded: DecodedImage, tenant_id: str, fingerprint: str) -> _Prepared:
    return _Prepared(
        ref=ImageRef(key_of(decoded, tenant_id, fingerprint), decoded.width, decoded.height),
        blob=pack_image(decoded.encoding, decoded.width, decoded.height, decoded.data),
        source_pixels=decoded.source_pixels,
    )
