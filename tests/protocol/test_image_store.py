import hashlib

import msgspec
import pytest
import redis.asyncio as aioredis
from hypothesis import given
from hypothesis import strategies as st

from services.protocol.connection import open_wire
from services.protocol.errors import ErrorCode, OverloadedError, UnavailableError
from services.protocol.image_store import (
    ByteBoundedCache,
    ImageStore,
    image_key,
    pack_image,
    unpack_image,
)
from services.protocol.messages import ProtocolError
from services.protocol.wire import RedisWire

_FIELDS = st.tuples(
    st.text(max_size=4),
    st.text(max_size=4),
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 12),
    st.binary(max_size=4),
)


@given(_FIELDS, _FIELDS)
def test_keys_are_equal_only_for_equal_fields(one, other):
    assert (image_key(*one) == image_key(*other)) == (one == other)


def test_the_same_bytes_as_30_x_100_and_100_x_30_are_two_images():
    pixels = bytes(30 * 100 * 3)

    assert image_key("t", "RGB", 30, 100, 1, pixels) != image_key("t", "RGB", 100, 30, 1, pixels)


def test_two_tenants_never_share_a_key():
    assert image_key("a", "RGB", 1, 1, 1, b"abc") != image_key("b", "RGB", 1, 1, 1, b"abc")


def test_a_key_is_a_sha256_in_hex():
    key = image_key("a", "RGB", 1, 1, 1, b"abc")

    assert len(bytes.fromhex(key)) == hashlib.sha256().digest_size


@given(st.sampled_from(["png", "jpeg"]), st.integers(1, 5000), st.integers(1, 5000), st.binary())
def test_packing_round_trips(encoding, width: int, height: int, data: bytes):
    image = unpack_image(pack_image(encoding, width, height, data))

    assert (image.encoding, image.width, image.height, image.data) == (
        encoding,
        width,
        height,
        data,
    )


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff" * 10,
        msgspec.msgpack.encode((2, "png", 1, 1, b"")),
        msgspec.msgpack.encode((1, "gif", 1, 1, b"")),
        pack_image("rgb8", 2, 2, b"\0" * 11),
        pack_image("png", 2, 2, b"\0" * 11)[:-1],
    ],
)
def test_a_blob_that_is_not_ours_is_a_protocol_error(blob: bytes):
    with pytest.raises(ProtocolError):
        unpack_image(blob)


async def test_what_was_put_is_got(redis_wire: RedisWire):
    store = ImageStore(redis_wire, ttl_s=60)

    await store.put("k", b"blob")

    assert await store.get("k") == b"blob"
    assert await store.get("other") is None


async def test_putting_again_renews_the_lifetime(
    redis_wire: RedisWire, redis_client: aioredis.Redis
):
    await ImageStore(redis_wire, ttl_s=10).put("k", b"blob")

    await ImageStore(redis_wire, ttl_s=500).put("k", b"blob")

    assert await redis_client.ttl("galen:image:k") > 400


async def test_refreshing_renews_the_lifetime_and_says_whether_the_image_is_there(
    redis_wire: RedisWire,
    redis_client: aioredis.Redis,
):
    await ImageStore(redis_wire, ttl_s=10).put("k", b"blob")
    store = ImageStore(redis_wire, ttl_s=500)

    assert await store.refresh("k")
    assert not await store.refresh("other")
    assert await redis_client.ttl("galen:image:k") > 400


async def test_an_image_always_has_a_lifetime(redis_wire: RedisWire, redis_client: aioredis.Redis):
    await ImageStore(redis_wire, ttl_s=10).put("k", b"blob")

    assert 0 < await redis_client.ttl("galen:image:k") <= 10


async def test_a_full_redis_is_an_overload(redis_wire: RedisWire, redis_client: aioredis.Redis):
    used = (await redis_client.info("memory"))["used_memory"]
    await redis_client.config_set("maxmemory", used)
    try:
        with pytest.raises(OverloadedError) as caught:
            await ImageStore(redis_wire, ttl_s=10).put("k", bytes(1024 * 1024))
    finally:
        await redis_client.config_set("maxmemory", 0)

    assert caught.value.code == ErrorCode.OVERLOADED


async def test_no_redis_is_unavailable(tmp_path):
    client = open_wire(f"unix://{tmp_path}/nothing.sock")
    store = ImageStore(client, ttl_s=10)

    for call in (store.put("k", b""), store.get("k"), store.refresh("k")):
        with pytest.raises(UnavailableError):
            await call
    await client.aclose()


class _Blob(bytes):
    @property
    def num_bytes(self) -> int:
        return len(self)


def test_the_cache_drops_the_least_recently_used_value():
    cache: ByteBoundedCache[_Blob] = ByteBoundedCache(10)
    for name in "abc":
        cache.put(name, _Blob(3))
    cache.get("a")

    cache.put("d", _Blob(4))

    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.num_bytes == 10


def test_the_cache_does_not_empty_itself_for_a_value_that_is_too_large():
    cache: ByteBoundedCache[_Blob] = ByteBoundedCache(10)
    cache.put("a", _Blob(10))

    cache.put("b", _Blob(11))

    assert cache.get("a") is not None
    assert cache.get("b") is None


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 12)), max_size=40))
def test_the_cache_never_exceeds_its_bound(puts: list[tuple[str, int]]):
    cache: ByteBoundedCache[_Blob] = ByteBoundedCache(10)

    for name, length in puts:
        cache.put(name, _Blob(length))

    kept = [value for name in "abcde" if (value := cache.get(name)) is not None]
    assert cache.num_bytes == sum(len(value) for value in kept) <= 10
