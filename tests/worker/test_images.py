import asyncio
import io

import pytest
import redis.asyncio as aioredis
from PIL import Image

from services.protocol.errors import ErrorCode, WorkerError
from services.protocol.image_store import ImageStore, pack_image
from services.protocol.messages import ImageRef
from services.protocol.wire import RedisWire
from services.worker.images import ImageLoader


def _file(image: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format)
    return file.getvalue()


@pytest.fixture
def store(redis_wire: RedisWire) -> ImageStore:
    return ImageStore(redis_wire, ttl_s=60)


async def test_raw_pixels_are_loaded(store: ImageStore):
    await store.put("k", pack_image("rgb8", 2, 1, bytes(range(6))))

    image = await ImageLoader(store).load(ImageRef("k", 2, 1))

    assert (image.mode, image.size, image.tobytes()) == ("RGB", (2, 1), bytes(range(6)))


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
async def test_compressed_images_are_loaded(store: ImageStore, encoding):
    original = Image.new("RGB", (40, 30), (200, 100, 50))
    await store.put("k", pack_image(encoding, 40, 30, _file(original, encoding)))

    image = await ImageLoader(store).load(ImageRef("k", 40, 30))

    assert (image.mode, image.size) == ("RGB", (40, 30))
    red, green, blue = image.resize((1, 1)).tobytes()
    assert max(abs(red - 200), abs(green - 100), abs(blue - 50)) <= 2


async def test_an_image_that_the_store_lost_is_input_expired(store: ImageStore):
    with pytest.raises(WorkerError) as caught:
        await ImageLoader(store).load(ImageRef("k", 2, 1))

    assert caught.value.code == ErrorCode.INPUT_EXPIRED


async def test_a_loaded_image_is_not_fetched_again(store: ImageStore, redis_client: aioredis.Redis):
    loader = ImageLoader(store)
    await store.put("k", pack_image("rgb8", 2, 1, bytes(6)))
    first = await loader.load(ImageRef("k", 2, 1))
    await redis_client.flushdb()

    assert await loader.load(ImageRef("k", 2, 1)) is first


async def test_the_cache_is_bounded(store: ImageStore, redis_client: aioredis.Redis):
    loader = ImageLoader(store, cache_bytes=2 * 4 * 100)
    for key in "abc":
        await store.put(key, pack_image("rgb8", 10, 10, bytes(300)))
        await loader.load(ImageRef(key, 10, 10))
    await redis_client.flushdb()

    await loader.load(ImageRef("b", 10, 10))
    await loader.load(ImageRef("c", 10, 10))
    with pytest.raises(WorkerError):
        await loader.load(ImageRef("a", 10, 10))


@pytest.mark.parametrize(
    "blob",
    [
        b"garbage",
        pack_image("png", 2, 1, b"no png"),
        pack_image("png", 2, 1, _file(Image.new("RGB", (2, 1)), "JPEG")),
        pack_image("png", 2, 1, _file(Image.new("L", (2, 1)), "PNG")),
        pack_image("rgb8", 1, 2, bytes(6)),
    ],
)
async def test_a_stored_image_that_is_not_the_named_one_is_refused(store: ImageStore, blob: bytes):
    await store.put("k", blob)

    with pytest.raises(WorkerError) as caught:
        await ImageLoader(store).load(ImageRef("k", 2, 1))

    assert caught.value.code == ErrorCode.PROTOCOL_MISMATCH


async def test_many_loads_at_once_give_the_same_pixels(store: ImageStore):
    await store.put("k", pack_image("rgb8", 2, 1, bytes(range(6))))
    loader = ImageLoader(store)

    images = await asyncio.gather(*(loader.load(ImageRef("k", 2, 1)) for _ in range(8)))

    assert {image.tobytes() for image in images} == {bytes(range(6))}
