"""Converted checkpoints in the transformers engine answer as the original, to the token.

Both engines behind `galen up` are compared in tests/vllm/test_vllm_llava_med.py.
"""

from pathlib import Path

import msgspec
import pytest
from PIL import Image
from sentencepiece import SentencePieceProcessor

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
EOS_ID = 2
STOP = "###"
"""What ends an answer of v1.0, beside the end of sequence."""

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
            expected = answer_of(original, converted, PROMPTS[prompt])
            assert started.of(prompt).token_ids == expected


async def test_a_tower_that_is_whole_on_every_rank_answers_the_same(v1_biomedclip: Converted):
    original = V1(v1_biomedclip.original, vit_images)
    async with running(lambda: engine(v1_biomedclip.hf, ranks=2)) as started:
        [found] = await started.run(job_of("image first", PROMPTS["image first"]))
        assert found.token_ids == answer_of(original, v1_biomedclip, PROMPTS["image first"])


def answer_of(original: Original, checkpoint: Converted, parts: list[Part]) -> list[int]:
    """The original's whole answer: up to its end, the stop string or `MAX_TOKENS`."""
    slow = SentencePieceProcessor(model_file=str(checkpoint.original / "tokenizer.model"))
    return cut_at_end(original.greedy(parts, MAX_TOKENS), slow, has_stop=isinstance(original, V1))


def cut_at_end(token_ids: list[int], slow: SentencePieceProcessor, *, has_stop: bool) -> list[int]:
    """The token that ends an answer belongs to it."""
    text = ""
    for number, token_id in enumerate(token_ids, start=1):
        is_added = token_id >= slow.vocab_size()
        text += "\0" if is_added else slow.id_to_piece(token_id)
        if token_id == EOS_ID or (has_stop and STOP in text):
            return token_ids[:number]
    return token_ids


def test_the_expected_answers_end_where_they_should(v1: Converted):
    slow = SentencePieceProcessor(model_file=str(v1.original / "tokenizer.model"))
    before, stop, behind = (slow.encode(text) for text in ("The lung.", STOP, "The left"))

    assert cut_at_end([*before, *stop, *behind], slow, has_stop=True) == [*before, *stop]
    assert cut_at_end([*before, *stop, *behind], slow, has_stop=False) == [*before, *stop, *behind]
    assert cut_at_end([*before, EOS_ID, *behind], slow, has_stop=False) == [*before, EOS_ID]


def job_of(request_id: str, parts: list[Part]) -> EngineJob:
    images = tuple(part for part in parts if isinstance(part, Image.Image))
    content = tuple(
        TextPart(part) if isinstance(part, str) else ImagePart(image_ref(part)) for part in parts
    )
    made = job(request_id, max_tokens=MAX_TOKENS)
    request = msgspec.structs.replace(made.request, messages=(Message("user", content),))
    return EngineJob(request, images)
