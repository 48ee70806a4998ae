import asyncio
import os
import signal
from collections.abc import Sequence

import pytest
import redis.asyncio as aioredis

from services.gateway.media.decode_messages import Preparation
from services.gateway.media.decoder import ImageDecoder
from services.gateway.media.images import ImageInput, ImageLimits, ImageResolver
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.image_store import ImageStore
from services.protocol.messages import ImageRecipe, ImageRef
from services.protocol.wire import RedisWire
from services.worker.images import ImageLoader
from tests.gateway.media import image_files
from tests.gateway.media.image_files import b64, data_url, noise

_CLIP = ImageRecipe(shortest_edge_px=336, crop_width_px=336, crop_height_px=336)
_PAD = ImageRecipe(336, 336, 336, mode="pad", fill_rgb=(122, 116, 104))


@pytest.fixture
def store(redis_wire: RedisWire) -> ImageStore:
    return ImageStore(redis_wire, ttl_s=60)


@pytest.fixture
def resolver(decoder: ImageDecoder, store: ImageStore) -> ImageResolver:
    return ImageResolver(decoder, store)


def _inputs(*urls: str, recipe: ImageRecipe | None = None) -> list[ImageInput]:
    return [
        ImageInput(url, f"messages.0.content.{place}.image_url.url", Preparation(recipe))
        for place, url in enumerate(urls)
    ]


async def _resolve(
    resolver: ImageResolver,
    *urls: str,
    tenant_id: str = "t",
    recipe: ImageRecipe | None = None,
    max_images: int | None = None,
) -> list[ImageRef]:
    return await resolver.resolve(
        _inputs(*urls, recipe=recipe), tenant_id=tenant_id, max_images=max_images
    )


async def _refusal(resolver: ImageResolver, urls: Sequence[str]) -> tuple[ErrorCode, str | None]:
    with pytest.raises(RequestError) as caught:
        await _resolve(resolver, *urls)
    return caught.value.code, caught.value.param


async def test_the_worker_loads_what_the_gateway_stored(resolver: ImageResolver, store: ImageStore):
    images = [noise(60, 50), noise(50, 60, seed=1)]

    refs = await _resolve(resolver, *map(data_url, images))

    loader = ImageLoader(store)
    assert [(await loader.load(ref)).tobytes() for ref in refs] == [
        image.tobytes() for image in images
    ]


async def test_a_request_without_images_needs_nothing(resolver: ImageResolver):
    assert await _resolve(resolver) == []


async def test_equal_images_of_a_request_are_decoded_once(decoder: ImageDecoder, store: ImageStore):
    url, other = data_url(noise(60, 50)), data_url(noise(60, 50, seed=1))
    resolver = ImageResolver(decoder, store)
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGSTOP)  # all jobs are queued before the first is answered

    request = asyncio.create_task(_resolve(resolver, url, other, url, url))
    while not decoder.num_waiting:
        await asyncio.sleep(0)
    num_queued = decoder.num_waiting
    os.kill(pid, signal.SIGCONT)

    refs = await request
    assert num_queued == 1
    assert refs[0] == refs[2] == refs[3] != refs[1]


async def test_requests_with_the_same_image_at_once_share_one_decoding(
    decoder: ImageDecoder, store: ImageStore
):
    url, other = data_url(noise(60, 50)), data_url(noise(60, 50, seed=1))
    resolver = ImageResolver(decoder, store)
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGSTOP)

    requests = [asyncio.create_task(_resolve(resolver, each)) for each in (url, url, other, url)]
    while not decoder.num_waiting:
        await asyncio.sleep(0)
    num_queued = decoder.num_waiting
    requests[0].cancel()  # the others still get their image
    os.kill(pid, signal.SIGCONT)

    _, second, third, fourth = await asyncio.gather(*requests, return_exceptions=True)
    assert num_queued == 1
    assert second == fourth != third
    assert not isinstance(second, BaseException)


async def test_an_image_sent_again_is_not_decoded_again(
    resolver: ImageResolver, decoder: ImageDecoder
):
    url = data_url(noise(60, 50))
    first = await _resolve(resolver, url)
    await decoder.close()

    assert await _resolve(resolver, url) == first


async def test_an_image_sent_again_has_its_lifetime_renewed(
    resolver: ImageResolver, redis_client: aioredis.Redis
):
    url = data_url(noise(60, 50))
    (ref,) = await _resolve(resolver, url)
    await redis_client.expire(f"galen:image:{ref.sha256}", 5)

    await _resolve(resolver, url)

    assert await redis_client.ttl(f"galen:image:{ref.sha256}") > 50


async def test_an_image_that_the_store_lost_is_put_again(
    resolver: ImageResolver, redis_client: aioredis.Redis
):
    url = data_url(noise(60, 50))
    (ref,) = await _resolve(resolver, url)
    await redis_client.flushdb()

    await _resolve(resolver, url)

    assert await redis_client.exists(f"galen:image:{ref.sha256}")


async def test_an_image_that_the_cache_dropped_is_decoded_again(
    decoder: ImageDecoder, store: ImageStore
):
    resolver = ImageResolver(decoder, store, cache_bytes=0)
    url = data_url(noise(60, 50))

    assert await _resolve(resolver, url) == await _resolve(resolver, url)


async def test_tenants_and_recipes_have_references_of_their_own(resolver: ImageResolver):
    url = data_url(noise(400, 500))

    refs = [
        *await _resolve(resolver, url, tenant_id="a"),
        *await _resolve(resolver, url, tenant_id="b"),
        *await _resolve(resolver, url, tenant_id="a", recipe=_CLIP),
        *await _resolve(resolver, url, tenant_id="a", recipe=_PAD),
    ]

    assert len({ref.sha256 for ref in refs}) == 4
    assert (refs[2].width, refs[2].height) == (336, 336)


async def test_83_the_same_bytes_in_two_shapes_are_two_images(resolver: ImageResolver):
    wide = image_files.png(100, 30)
    tall = image_files.png(30, 100)

    refs = await _resolve(resolver, *(f"data:image/png;base64,{b64(f)}" for f in (wide, tall)))

    assert refs[0].sha256 != refs[1].sha256
    assert (refs[0].width, refs[1].width) == (100, 30)


async def test_the_error_names_the_image_at_fault(resolver: ImageResolver):
    good = data_url(noise(60, 50))

    for bad, code in [
        ("https://example.org/a.png", ErrorCode.URL_FETCH_DISABLED),
        ("data:image/png;base64,AAAA", ErrorCode.INVALID_IMAGE),
        (data_url(noise(20, 20)), ErrorCode.IMAGE_TOO_SMALL),
    ]:
        assert await _refusal(resolver, [good, bad]) == (
            code,
            "messages.0.content.1.image_url.url",
        )


async def test_87_seventeen_images_are_too_many(resolver: ImageResolver, decoder: ImageDecoder):
    await decoder.close()  # refused before anything is decoded

    code, _ = await _refusal(resolver, [data_url(noise(60, 50))] * 17)

    assert code == ErrorCode.TOO_MANY_IMAGES


async def test_sixteen_images_are_taken(resolver: ImageResolver):
    urls = [data_url(noise(30, 30, seed=seed)) for seed in range(16)]

    assert len({ref.sha256 for ref in await _resolve(resolver, *urls)}) == 16


async def test_a_models_own_limit_counts(resolver: ImageResolver):
    with pytest.raises(RequestError, match="at most 0") as caught:
        await _resolve(resolver, data_url(noise(60, 50)), max_images=0)

    assert caught.value.code == ErrorCode.TOO_MANY_IMAGES


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("num_shades", [1, 4])
async def test_87_more_pixels_than_the_request_may_have(
    decoder: ImageDecoder, store: ImageStore, num_shades: int, is_cached
):
    resolver = ImageResolver(decoder, store, limits=ImageLimits(max_total_pixels=39_999))
    urls = [data_url(noise(100, 100, seed=place % num_shades)) for place in range(4)]
    if is_cached:
        await _resolve(resolver, *urls[:3])

    code, _ = await _refusal(resolver, urls)

    assert code == ErrorCode.TOO_MANY_IMAGES


async def test_87_sixty_four_megapixels_is_the_default(resolver: ImageResolver):
    url = f"data:image/png;base64,{b64(image_files.png(5700, 5700, bits=1))}"

    code, _ = await _refusal(resolver, [url, url])

    assert code == ErrorCode.TOO_MANY_IMAGES


async def test_no_url_and_no_pixel_is_logged(
    resolver: ImageResolver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    url = data_url(noise(20, 20))
    caplog.set_level(0)

    await _refusal(resolver, [url])

    assert url[-60:] not in caplog.text + "".join(capfd.readouterr())
