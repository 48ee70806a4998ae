"""Batches of samples with no, one and several images: defects D1 to D3 of LLaVA-Med v1.0."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.collate import Batch, CollateError, Sample, collate
from modeling.conversations import parse_item
from modeling.image_features import encode_each
from modeling.image_recipe import CheckpointRecipe, pixel_values
from modeling.own_template import OwnTemplate
from modeling.prompt import IGNORE_INDEX, ImageTokens, PromptTokeniser, SpecialIds
from modeling.tiny import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, make_tiny_llava

TOLERANCE = 2e-4
CROP = CheckpointRecipe("crop", 56, 56, 56)
KEEP = CheckpointRecipe("keep", 56, 56, 56, patch_px=14)
SHAPES = ((70, 60), (40, 90), (300, 20))


def item(name: str, *texts: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": name, "conversations": turns}


ITEMS = (
    (item("two images", "Here <image> and <image>: alike?", "No, the left lung is clear."), (0, 1)),
    (item("text alone", "Which organ is this?", "This is the liver."), ()),
    (item("one image", "<image>\nWhat is this?", "A lesion.", "Sure?", "Yes."), (2,)),
)


class Trainee:
    """A tiny LLaVA with all that makes samples of data items for it."""

    def __init__(self, path: Path) -> None:
        model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self.model = model.eval()
        self.processor: Any = AutoProcessor.from_pretrained(path, backend="pil")
        self._template = OwnTemplate(self.processor)
        self._tokeniser = PromptTokeniser(
            self.processor.tokenizer.backend_tokenizer,
            SpecialIds(BOS_ID, EOS_ID),
            ImageTokens.of(IMAGE_ID, 16),
        )

    def sample(self, data: Any, shown: Sequence[int], recipe: CheckpointRecipe = CROP) -> Sample:
        pieces = self._template.write(parse_item(data))
        images = [
            torch.from_numpy(pixel_values(picture(n), self.processor.image_processor, recipe))
            for n in shown
        ]
        counts = [(i.shape[2] // 14) * (i.shape[3] // 14) for i in images]
        stands = [ImageTokens.of(IMAGE_ID, count) for count in counts]
        kept = stands if recipe.mode == "keep" else None
        return Sample(str(data["id"]), self._tokeniser.tokenise(pieces, kept), images)

    @torch.inference_mode()
    def logits(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """Of each sample's own tokens, [L, V]."""
        batch = collate(samples, PAD_ID)
        is_the_towers = all(image.shape == (1, 3, 56, 56) for image in batch.images)
        output = self.model(**(batch.inputs() if is_the_towers else self._encoded(batch)))
        rows = zip(output.logits, samples, strict=True)
        return [row_LV[: len(sample.prompt.token_ids)] for row_LV, sample in rows]

    def _encoded(self, batch: Batch) -> dict[str, Any]:
        features = encode_each(self.model, batch.images)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "mm_encoder_outputs": {"image": features},
        }


def picture(number: int) -> Image.Image:
    width, height = SHAPES[number]
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory) -> Trainee:
    return Trainee(make_tiny_llava(tmp_path_factory.mktemp("llava") / "tiny-llava"))


def samples_of(trainee: Trainee, recipe: CheckpointRecipe = CROP) -> list[Sample]:
    return [trainee.sample(data, shown, recipe) for data, shown in ITEMS]


@pytest.mark.parametrize("recipe", [CROP, KEEP], ids=lambda recipe: recipe.mode)
def test_d1_d2_a_mixed_batch_gives_every_sample_its_own_logits(
    trainee: Trainee, recipe: CheckpointRecipe
):
    samples = samples_of(trainee, recipe)
    alone = [trainee.logits([sample])[0] for sample in samples]

    for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0)):
        together = trainee.logits([samples[n] for n in order])

        for place, number in enumerate(order):
            assert torch.allclose(together[place], alone[number], atol=TOLERANCE)


def test_each_image_acts_and_acts_in_its_place(trainee: Trainee):
    """Otherwise the test above would say nothing."""
    data, _ = ITEMS[0]
    (as_is,), (swapped,), (first_twice,) = (
        trainee.logits([trainee.sample(data, shown)]) for shown in ((0, 1), (1, 0), (0, 0))
    )

    for other in (swapped, first_twice):
        assert not torch.allclose(as_is, other, atol=100 * TOLERANCE)


def test_d2_a_sample_without_images_takes_none(trainee: Trainee):
    samples = samples_of(trainee)

    batch = collate(samples, PAD_ID)

    assert len(batch.images) == 3
    pixels = batch.inputs()["pixel_values"]
    assert torch.equal(pixels, torch.cat([*samples[0].images, *samples[2].images]))
    per_row = (batch.input_ids == IMAGE_ID).sum(dim=1).tolist()
    assert per_row == [32, 0, 16]
    assert "pixel_values" not in collate([samples[1]], PAD_ID).inputs()


def test_d3_an_image_without_a_place_is_refused_by_name(trainee: Trainee):
    data = item("lost marker", "What does it show?", "A lung.")
    good = samples_of(trainee)

    with pytest.raises(CollateError) as caught:
        collate([good[0], trainee.sample(data, (1,)), good[2]], PAD_ID)

    assert str(caught.value) == (
        "sample 'lost marker' has 1 images and 0 places for them; "
        "give one <image> per image, or leave the sample out"
    )


def test_a_place_without_an_image_is_refused_by_name(trainee: Trainee):
    with pytest.raises(CollateError, match="sample 'two images' has 1 images and 2 places"):
        collate([trainee.sample(ITEMS[0][0], (0,))], PAD_ID)


def test_rows_are_padded_on_the_right_and_padding_has_no_loss(trainee: Trainee):
    samples = samples_of(trainee)

    batch = collate(samples, PAD_ID)

    longest = max(len(sample.prompt.token_ids) for sample in samples)
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    assert batch.input_ids.shape == (3, longest)
    for row, sample in enumerate(samples):
        length = len(sample.prompt.token_ids)
        assert batch.input_ids[row, :length].tolist() == sample.prompt.token_ids
        assert batch.labels[row, :length].tolist() == sample.prompt.labels
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (longest - length)
        assert (batch.input_ids[row, length:] == PAD_ID).all()
        assert (batch.labels[row, length:] == IGNORE_INDEX).all()


def test_images_of_several_sizes_are_no_one_tensor(trainee: Trainee):
    with pytest.raises(CollateError, match="encode them one by one"):
        collate(samples_of(trainee, KEEP), PAD_ID).inputs()


def test_as_many_token_counts_as_images_are_wanted(trainee: Trainee):
    tokeniser = PromptTokeniser(
        trainee.processor.tokenizer.backend_tokenizer,
        SpecialIds(BOS_ID, EOS_ID),
        ImageTokens.of(IMAGE_ID, 16),
    )
    pieces = OwnTemplate(trainee.processor).write(parse_item(ITEMS[0][0]))

    with pytest.raises(ValueError, match="1 images for 2 places"):
        tokeniser.tokenise(pieces, [ImageTokens.of(IMAGE_ID, 4)])
