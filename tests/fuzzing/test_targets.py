"""The fuzzer's targets hold on what it begins with, and on a few hundred bends of it."""

import random

import pytest

from tests.fuzzing.seeds import SEEDS
from tests.fuzzing.targets import TARGETS

NUM_BENT = 200


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_a_few_wrong_bytes_make_of_them(name: str):
    draw, target = random.Random(name), TARGETS[name]
    found = [seed for seed in SEEDS[name]() if 0 < len(seed) <= target.max_bytes]
    assert len(found) > 2
    for entered in (*found, *(_bent(draw.choice(found), draw) for _ in range(NUM_BENT))):
        try:
            target.enter(entered)
        except target.expected:
            continue


def _bent(seed: bytes, draw: random.Random) -> bytes:
    """Return a seed with a few bytes of its head changed, or its end cut."""
    bent = bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        bent[draw.randrange(min(len(bent), 1024))] = draw.randrange(256)
    return bytes(bent[: draw.randrange(len(bent))] if draw.random() < 0.3 else bent)
