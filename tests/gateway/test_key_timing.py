"""Keys that are not good take the same time, whatever part of them is right.

Measured in the key ring itself: over HTTP the noise is a thousand times what could differ. That
both are answered `invalid_api_key` is in `tests/end_to_end/test_keys.py`.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.gateway.access.key_ring import KeyRing
from services.gateway.job_store import JobStore
from services.protocol.key_limits import NO_LIMITS
from services.store.key_records import NewKey, add_key
from services.store.key_secrets import load_secrets
from services.store.settings import StoreSettings

NUM_KEYS = 10_000
ROUNDS = 5
"""A fair coin fails one round of a hundred by chance, and a shared machine some more."""
SURE = statistics.NormalDist().inv_cdf(1 - 0.01 / 2)
Find = Callable[[bytes], object]


@pytest.fixture
async def known(tmp_path: Path) -> tuple[KeyRing, str]:
    """A key ring that has read one key, and the key."""
    settings = StoreSettings(dir=tmp_path)
    store = JobStore(settings)
    async with store.begin() as session:
        new = NewKey("a", "a", ("chat",), NO_LIMITS, None, None)
        made = await add_key(session, load_secrets(settings), new)
    ring = KeyRing(store, settings)
    await ring.refresh()
    await store.close()
    return ring, made.key


def wrong_keys(key: str) -> tuple[list[bytes], list[bytes]]:
    """Keys with the right id and more, and keys of which nothing is right; all of one length."""
    draw = random.Random(111)
    digits = ["".join(draw.choices("0123456789abcdef", k=80)) for _ in range(2 * NUM_KEYS)]
    right = [f"{key[:-4]}{each[:4]}".encode() for each in digits[:NUM_KEYS]]
    return right, [f"galen_{each[:16]}_{each[16:]}".encode() for each in digits[NUM_KEYS:]]


def differs(find: Find, some: list[bytes], others: list[bytes]) -> bool:
    """Whether Welch's test tells the times of two kinds of keys apart, asked in turns."""
    for key in (*some[:500], *others[:500]):
        find(key)
    times: tuple[list[int], list[int]] = ([], [])
    for pair in zip(some, others, strict=True):
        order = (0, 1) if random.random() < 0.5 else (1, 0)
        for kind in order:
            began = time.perf_counter_ns()
            find(pair[kind])
            times[kind].append(time.perf_counter_ns() - began)
    kept = [sorted(each)[: int(0.9 * NUM_KEYS)] for each in times]  # without interruptions
    means = [statistics.fmean(each) for each in kept]
    error = math.sqrt(sum(statistics.variance(each) / len(each) for each in kept))
    return abs(means[0] - means[1]) / error > SURE


async def test_no_time_tells_which_keys_there_are(known: tuple[KeyRing, str]) -> None:
    ring, key = known
    right, random_ones = wrong_keys(key)
    assert ring.find(key.encode()) is not None
    assert not any(map(ring.find, (*right[:100], *random_ones[:100])))

    assert not all(differs(ring.find, right, random_ones) for _ in range(ROUNDS))


async def test_control_a_search_by_the_id_first_is_told_by_its_time(
    known: tuple[KeyRing, str],
) -> None:
    ring, key = known
    right, random_ones = wrong_keys(key)
    begins = key.rpartition("_")[0].encode()

    def by_id(key: bytes) -> object:
        return ring.find(key) if key.startswith(begins) else None

    assert all(differs(by_id, right, random_ones) for _ in range(ROUNDS))
