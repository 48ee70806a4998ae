"""Converted checkpoints in the transformers engine answer as the original, to the token.

Both engines behind `galen up` are compared in tests/vllm/test_vllm_llava_med.py.
"""

from pathlib import Path

import msgspec
import pytest
from PIL import Image

from services.protocol.messages import ImagePart, Message, TextPart
from services.worker.engines.base import EngineJob
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions
from tests.modeling.conftest import Converted
from tests.modeling.test_converted_logits import (
    PROMPTS,
    V1,
    V15,
    Original,
    Part,
    clip_images,
    own_images,
    vit_images,
)
from tests.worker.engine_harness import image_ref, job, running

MAX_TOKENS = 10
IMAGES = {"v1": clip_images, "v1_biomedclip": vit_images, "v15": own_images}


def engine(path: Path, ranks: int = 1) -> TransformersEngine:
    load = LoadOptions(dtype="float32", tensor_parallel_size=ranks)
    return TransformersEngine(path, "llava-med", 4, load=load, num_threads=1)


@pytest.mark.parametrize("name", IMAGES)
async def test_answers_are_those_of_the_original(name: str, request: pytest.FixtureRequest):
    converted: Converted = request.getfixturevalue(name)
    original = (V15 if name == "v15" else V1)(converted.original, IMAGES[name])
    async with running(lambda: engine(converted.hf)) as started:
        jobs = {prompt: job_of(prompt, parts) for prompt, parts in PROMPTS.items()}
        await started.run(*jobs.values())  # at once: text between images in one batch
        for prompt in jobs:
            check(started.of(prompt).token_ids, original, PROMPTS[prompt])


async def test_a_tower_that_is_whole_on_every_rank_answers_the_same(v1_biomedclip: Converted):
    original = V1(v1_biomedclip.original, vit_images)
    async with running(lambda: engine(v1_biomedclip.hf, ranks=2)) as started:
        [found] = await started.run(job_of("image first", PROMPTS["image first"]))
        check(found.token_ids, original, PROMPTS["image first"])


def check(token_ids: list[int], original: Original, parts: list[Part]) -> None:
    expected = original.greedy(parts, MAX_TOKENS)
    assert token_ids, "it said nothing"
    assert token_ids == expected[: len(token_ids)]


def job_of(request_id: str, parts: list[Part]) -> EngineJob:
    images = tuple(part for part in parts if isinstance(part, Image.Image))
    content = tuple(
        TextPart(part) if isinstance(part, str) else ImagePart(image_ref(part)) for part in parts
    )
    made = job(request_id, max_tokens=MAX_TOKENS)
    request = msgspec.structs.replace(made.request, messages=(Message("user", content),))
    return EngineJob(request, images)
