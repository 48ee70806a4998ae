"""Kept image features change how often the vision tower runs, and no bit of an answer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engines.image_feature_cache import ImageFeatureCache, ImageKey
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions
from tests.worker.engine_harness import PROMPTS, Recorded, job, picture, running

IMAGE_13HW = torch.zeros(1, 3, 4, 4)
FEATURES_BYTES = 2 * 3 * 4  # [2, 3] of float32


def key(sha256: str, adapter: str = "base") -> ImageKey:
    return ImageKey(sha256, adapter)


class Tower:
    """Gives other features at every call."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, _image: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return torch.full((2, 3), float(self.num_calls))


def ask(cache: ImageFeatureCache, tower: Tower, *keys: ImageKey) -> list[float]:
    features = cache.features([IMAGE_13HW] * len(keys), keys, tower)
    return [float(each[0, 0]) for each in features]


def test_image_is_encoded_once():
    cache, tower = ImageFeatureCache(1000), Tower()
    assert ask(cache, tower, key("a"), key("b"), key("a")) == [1.0, 2.0, 1.0]
    assert ask(cache, tower, key("b")) == [2.0]
    assert (cache.num_encoded, cache.num_reused) == (2, 2)


def test_adapter_has_features_of_its_own():
    cache, tower = ImageFeatureCache(1000), Tower()
    assert ask(cache, tower, key("a"), key("a", "adapter0")) == [1.0, 2.0]


def test_least_recently_used_features_are_dropped():
    cache, tower = ImageFeatureCache(2 * FEATURES_BYTES), Tower()
    ask(cache, tower, key("a"), key("b"), key("a"), key("c"))
    assert ask(cache, tower, key("a")) == [1.0]
    assert ask(cache, tower, key("b")) == [4.0]


@pytest.mark.parametrize("max_bytes", [0, FEATURES_BYTES - 1])
def test_nothing_is_kept_without_room(max_bytes: int):
    cache, tower = ImageFeatureCache(max_bytes), Tower()
    assert ask(cache, tower, key("a"), key("a")) == [1.0, 2.0]
    assert (cache.num_encoded, cache.num_reused) == (2, 0)


def test_what_is_kept_holds_no_larger_tensor_alive():
    cache = ImageFeatureCache(1000)
    whole = torch.arange(12.0).reshape(4, 3)
    cache.features([IMAGE_13HW], [key("a")], lambda _: whole[:2])
    whole.zero_()
    (kept,) = cache.features([IMAGE_13HW], [key("a")], lambda _: whole[:2])
    assert kept.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


# --- in the engine ---


def engine(path: Path, kept_bytes: int) -> TransformersEngine:
    options = LoadOptions(feature_cache_bytes=kept_bytes)
    return TransformersEngine(path, "tiny", 4, num_threads=2, load=options)


def questions() -> list[Any]:
    """Ten questions on three images, one at a time and two together."""
    images = [[picture(n % 3)] for n in range(8)] + [[picture(0), picture(1)], [picture(2)] * 2]
    return [
        job(f"q{n}", PROMPTS[n % len(PROMPTS)], shown, max_tokens=6, logprobs=2)
        for n, shown in enumerate(images)
    ]


async def answers(path: Path, kept_bytes: int) -> tuple[list[Recorded], int, int]:
    started = engine(path, kept_bytes)
    async with running(lambda: started) as runs:
        recorded = [(await runs.run(each))[0] for each in questions()]
        stats = started.stats()
    assert stats is not None
    return recorded, stats.images_encoded, stats.images_reused


async def test_answers_are_bit_for_bit_those_without_the_cache(tiny_llava: Path):
    without, encoded, reused = await answers(tiny_llava, 0)
    assert (encoded, reused) == (12, 0)
    kept, encoded, reused = await answers(tiny_llava, 1 << 20)
    assert (encoded, reused) == (3, 9)
    assert [each.token_ids for each in kept] == [each.token_ids for each in without]
    for some, others in zip(kept, without, strict=True):
        assert [t.logprobs for t in some.tokens] == [t.logprobs for t in others.tokens]


async def test_other_models_keep_nothing(tiny_gemma3: Path):
    _, encoded, reused = await answers(tiny_gemma3, 1 << 20)
    assert (encoded, reused) == (0, 0)
