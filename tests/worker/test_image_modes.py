"""`image_aspect_ratio` of a checkpoint: what the transformers engine makes of images then."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.image_recipe import apply_recipe, pixel_values
from modeling.tiny import IMAGE_ID
from services.gateway.prompt_costs import image_tokens
from services.protocol.messages import ImageRecipe
from services.worker.engines.base import EngineJob, EngineStartError
from services.worker.engines.image_inputs import expand
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions
from tests.worker.checkpoints import with_config
from tests.worker.engine_harness import PROMPTS, Recorded, job, picture, running
from tests.worker.generate_reference import Reference

FILL = (122, 116, 104)
KEEP = ImageRecipe(56, 56, 56, mode="keep", patch_px=14)
SHAPES = ((90, 40), (40, 90), (56, 56), (300, 20), (61, 60), (500, 499))


@pytest.fixture(params=["square", "pad", "resize", "keep"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def engine(path: Path, **load: Any) -> TransformersEngine:
    return TransformersEngine(path, "tiny", 8, load=LoadOptions(**{"dtype": "float32", **load}))


def pictures(*numbers: int) -> list[Image.Image]:
    return [picture(n, *SHAPES[n % len(SHAPES)]) for n in numbers]


def jobs() -> list[EngineJob]:
    """Text alone, one image, and several of different sizes in one request."""
    shown = ((), (0,), (1, 2), (3,), (4, 5, 0))
    return [
        job(f"shown-{n}", PROMPTS[n % 4], pictures(*numbers), max_tokens=12, logprobs=1)
        for n, numbers in enumerate(shown)
    ]


def prepared(each: EngineJob, recipe: ImageRecipe) -> EngineJob:
    """The same job after the gateway has seen to its images."""
    return EngineJob(each.request, tuple(apply_recipe(image, recipe) for image in each.images))


async def test_images_are_taken_as_sent_or_as_the_gateway_prepared_them(
    tiny_llava: Path, tmp_path: Path, mode: str
) -> None:
    path = with_config(tiny_llava, tmp_path / mode, image_aspect_ratio=mode)
    async with running(lambda: engine(path)) as started:
        recipe = started.card.image_recipe
        assert recipe is not None
        assert recipe.mode == {"square": "crop"}.get(mode, mode)
        sent = await started.run(*jobs())
        again = await started.run(*(prepared(each, recipe) for each in jobs()))
    assert answers(sent) == answers(again)


async def test_gateway_counts_an_images_tokens_as_the_engine_does(
    tiny_llava: Path, tmp_path: Path, mode: str
) -> None:
    """From the size of the file alone; what the engine counts includes the text."""
    path = with_config(tiny_llava, tmp_path / mode, image_aspect_ratio=mode)
    async with running(lambda: engine(path)) as started:
        alone, *shown = await started.run(
            job("text", PROMPTS[0], max_tokens=1),
            *(job(f"shown-{n}", PROMPTS[0], pictures(n), max_tokens=1) for n in range(len(SHAPES))),
        )
        counted = [image_tokens(started.card, shape) for shape in SHAPES]
    assert all(is_certain for _, is_certain in counted)
    beside = {
        each.finished.prompt_tokens - alone.finished.prompt_tokens - tokens
        for each, (tokens, _) in zip(shown, counted, strict=True)
    }
    assert len(beside) == 1  # what the template puts around an image
    assert 0 <= beside.pop() <= 4


async def test_modes_are_those_of_the_model_on_prepared_images(
    tiny_llava: Path, tmp_path: Path
) -> None:
    """`pad` and `resize` give squares, on which the checkpoint's own processor does nothing."""
    reference = Reference(tiny_llava)
    for mode, recipe in (
        ("pad", ImageRecipe(56, 56, 56, mode="pad", fill_rgb=FILL)),
        ("resize", ImageRecipe(56, 56, 56, mode="resize")),
    ):
        path = with_config(tiny_llava, tmp_path / mode, image_aspect_ratio=mode)
        async with running(lambda path=path: engine(path)) as started:
            assert started.card.image_recipe == recipe
            recorded = await started.run(*jobs())
        for each, answer in zip(jobs(), recorded, strict=True):
            assert answer.token_ids == reference.generate(prepared(each, recipe))


async def test_images_of_several_sizes_keep_their_aspect(tiny_llava: Path, tmp_path: Path) -> None:
    path = with_config(tiny_llava, tmp_path / "keep", image_aspect_ratio="keep")
    model = Kept(path)
    expected = [model.generate(each) for each in jobs()]
    async with running(lambda: engine(path)) as started:
        assert started.card.image_recipe == KEEP
        together = await started.run(*jobs())
        alone = [(await started.run(each))[0] for each in jobs()]
    assert [recorded.token_ids for recorded in together] == [ids for ids, _ in expected]
    assert [recorded.token_ids for recorded in alone] == [ids for ids, _ in expected]
    for recorded, (_, num_prompt_tokens) in zip(together, expected, strict=True):
        assert recorded.finished.prompt_tokens == num_prompt_tokens


async def test_a_square_image_is_the_same_kept_and_cropped(
    tiny_llava: Path, tmp_path: Path
) -> None:
    path = with_config(tiny_llava, tmp_path / "keep", image_aspect_ratio="keep")
    sent = job("square", images=[picture(1, 56, 56), picture(2, 400, 400)])
    async with running(lambda: engine(path)) as started:
        (recorded,) = await started.run(sent)
    assert recorded.token_ids == Reference(tiny_llava).generate(sent)


async def test_two_ranks_keep_the_aspect_too(tiny_llava: Path, tmp_path: Path) -> None:
    path = with_config(tiny_llava, tmp_path / "keep", image_aspect_ratio="keep")
    async with running(lambda: engine(path)) as started:
        expected = await started.run(*jobs())
    ranks = {"tensor_parallel_size": 2, "device": "cpu"}
    async with running(lambda: engine(path, **ranks)) as started:
        found = await started.run(*jobs())
    assert answers(found) == answers(expected)


async def test_half_precision_keeps_the_aspect_too(tiny_llava: Path, tmp_path: Path) -> None:
    path = with_config(tiny_llava, tmp_path / "keep", image_aspect_ratio="keep")
    async with running(lambda: engine(path, dtype="bfloat16")) as started:
        recorded = await started.run(*jobs())
    assert all(each.finished.completion_tokens > 0 for each in recorded)


async def test_an_unknown_mode_is_refused_at_start(tiny_llava: Path, tmp_path: Path) -> None:
    path = with_config(tiny_llava, tmp_path / "anyres", image_aspect_ratio="anyres")
    with pytest.raises(EngineStartError, match=r"'anyres' in config\.json is unknown") as caught:
        async with running(lambda: engine(path)):
            pass
    assert "\n" not in str(caught.value)


def answers(recorded: Sequence[Recorded]) -> list[tuple[list[int], int]]:
    return [(each.token_ids, each.finished.prompt_tokens) for each in recorded]


class Kept:
    """The model with its tower's positions interpolated, step by step, without our engine."""

    def __init__(self, path: Path) -> None:
        model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._model = model.eval()
        self._processor: Any = AutoProcessor.from_pretrained(path, backend="pil")

    @torch.inference_mode()
    def generate(self, sent: EngineJob) -> tuple[list[int], int]:
        """The greedy answer, and the length of its prompt."""
        inner, features = self._model.model, []
        for image in sent.images:
            pixels = pixel_values(image, self._processor.image_processor, KEEP)
            states = inner.vision_tower(
                torch.from_numpy(pixels), interpolate_pos_encoding=True, output_hidden_states=True
            ).hidden_states
            features.append(inner.multi_modal_projector(states[-2][0, 1:]))
        text = "<s>USER: " + "<image>\n" * len(sent.images)
        text += f"{sent.request.messages[0].parts[-1].text} ASSISTANT:"  # type: ignore[union-attr]
        unexpanded = self._processor.tokenizer.encode(text, add_special_tokens=False)
        counts = [len(feature_PD) for feature_PD in features]
        ids = torch.tensor([expand(unexpanded, IMAGE_ID, counts)])
        embedded = inner.get_input_embeddings()(ids)
        if features:
            embedded[ids == IMAGE_ID] = torch.cat(features)
        output = self._model.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=sent.request.sampling.max_tokens,
        )
        return output[0].tolist(), ids.shape[1]
