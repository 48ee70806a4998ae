"""`image_aspect_ratio` of a checkpoint on vLLM: the pixels of transformers, or a refusal."""

from pathlib import Path

import pytest

from services.protocol.messages import ImageRecipe
from services.worker.engines.base import EngineStartError
from services.worker.engines.transformers_engine import TransformersEngine
from tests.vllm.conftest import vllm_engine
from tests.worker.checkpoints import with_config
from tests.worker.engine_harness import running
from tests.worker.test_image_modes import answers, jobs, prepared


async def test_padded_images_give_the_answers_of_the_transformers_engine(
    tiny_llava: Path, tmp_path: Path
) -> None:
    path = with_config(tiny_llava, tmp_path / "pad", image_aspect_ratio="pad")
    async with running(lambda: TransformersEngine(path, "tiny", 8)) as started:
        expected = await started.run(*jobs())
    async with running(lambda: vllm_engine(path)) as started:
        recipe = started.card.image_recipe
        assert recipe is not None
        assert recipe == ImageRecipe(56, 56, 56, mode="pad", fill_rgb=(122, 116, 104))
        sent = await started.run(*jobs())
        again = await started.run(*(prepared(each, recipe) for each in jobs()))
    assert answers(sent) == answers(again) == answers(expected)


async def test_images_that_keep_their_aspect_are_refused_at_start(
    tiny_llava: Path, tmp_path: Path
) -> None:
    path = with_config(tiny_llava, tmp_path / "keep", image_aspect_ratio="keep")
    with pytest.raises(EngineStartError) as caught:
        async with running(lambda: vllm_engine(path)):
            pass
    assert str(caught.value) == (
        "image_aspect_ratio 'keep' in config.json: vLLM's LLaVA takes images of one size only; "
        "serve it with --engine transformers, or convert it with --image-aspect-ratio pad"
    )
