"""The fuzzer's targets hold on what it begins with, and on a few hundred bends of it."""

import random

import pytest

from tests.fuzzing.seeds import seeds
from tests.fuzzing.targets import TARGETS

NUM_BENT = 240


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_a_few_wrong_bytes_make_of_them(target: str):
    draw = random.Random(target)
    found = list(seeds(target))
    for seed in found:
        TARGETS[target](seed)
    for _ in range(NUM_BENT):
        TARGETS[target](_bent(draw.choice(found), draw))


def _bent(seed: bytes, draw: random.Random) -> bytes:
    """Return a seed with a few bytes of its head changed, or its end cut."""
    bent = bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        bent[draw.randrange(min(len(bent), 1024))] = draw.randrange(256)
    return bytes(bent[: draw.randrange(len(bent))] if draw.random() < 0.3 else bent)
