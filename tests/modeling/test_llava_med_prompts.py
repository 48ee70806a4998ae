"""Our own prompts, cut and batched, in converted checkpoints against the original's forward pass.

Token ids and batches are those that training makes: templates as data, `PromptTokeniser`,
`truncated`, `collate`. HF's processor makes them in test_converted_logits.py.
"""

import json
from collections.abc import Callable, Sequence

import pytest
import torch
from PIL import Image

from modeling.collate import Sample, collate
from modeling.conversation_templates import TEMPLATES, TemplateName, write
from modeling.conversations import Conversation, ImageSlot, Turn
from modeling.image_recipe import pixel_values, recipe_of
from modeling.prompt import ImageTokens, PromptTokeniser, SpecialIds, TokenisedPrompt
from tests.modeling.conftest import Converted
from tests.modeling.test_converted_logits import (
    PROMPTS,
    TOLERANCE,
    V1,
    V15,
    Original,
    Part,
    Run,
    clip_images,
    difference,
    load,
    own_images,
    picture,
)

NUM_PATCHES, EOS_ID = 16, 2
MIXED = ("image first", "text only", "two images", "image last")
KINDS: dict[str, tuple[type[Original], Callable[..., torch.Tensor], TemplateName]] = {
    "v1": (V1, clip_images, "v0"),
    "v15": (V15, own_images, "mistral_instruct"),
}


class Pair:
    """One checkpoint twice: converted, asked as in training, and original, as its reference."""

    def __init__(self, name: str, checkpoint: Converted) -> None:
        kind, images, template = KINDS[name]
        self._template = TEMPLATES[template]
        self._original = kind(checkpoint.original, images)
        self._model, self._processor = load(checkpoint.hf)
        config = json.loads((checkpoint.hf / "config.json").read_text())
        self._recipe = recipe_of(config, self._processor.image_processor)
        start, end = kind.around
        self._tokeniser = PromptTokeniser(
            self._processor.tokenizer.backend_tokenizer,
            SpecialIds(kind.bos, EOS_ID),
            ImageTokens((*start, *[kind.placeholder] * NUM_PATCHES, *end)),
        )

    def expected(self, parts: Sequence[Part]) -> Run:
        return self._original.run(parts)

    def prompt(self, parts: Sequence[Part]) -> TokenisedPrompt:
        said = tuple(part if isinstance(part, str) else ImageSlot() for part in parts)
        conversation = Conversation((Turn("user", said),))
        pieces = write(self._template, conversation, opens_answer=True)
        return self._tokeniser.tokenise(pieces)

    def sample(self, parts: Sequence[Part], max_tokens: int | None = None) -> Sample:
        """A prompt, cut where asked, and the images that are left."""
        prompt = self.prompt(parts)
        if max_tokens is not None:
            prompt = prompt.truncated(max_tokens)
        shown = [part for part in parts if isinstance(part, Image.Image)]
        left = shown[: len(prompt.image_spans)]
        return Sample("a sample", prompt, [self._pixels(image) for image in left])

    @torch.inference_mode()
    def logits(self, *samples: Sample) -> list[torch.Tensor]:
        """Of each sample's own tokens [L, V], all in one batch."""
        batch = collate(samples, pad_id=0)
        output = self._model(**batch.inputs())
        rows = zip(output.logits, samples, strict=True)
        return [row_LV[: len(sample.prompt.token_ids)] for row_LV, sample in rows]

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(pixel_values(image, self._processor.image_processor, self._recipe))


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param, request.getfixturevalue(request.param))


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_has_the_ids_and_logits_of_the_original(pair: Pair, name: str):
    sample = pair.sample(PROMPTS[name])

    check(sample, pair.logits(sample)[0], pair.expected(PROMPTS[name]))


def test_d1_d2_texts_between_images_in_one_batch_shift_nothing(pair: Pair):
    for names in (MIXED, MIXED[::-1], ("text only", "image last", "text only", "two images")):
        samples = [pair.sample(PROMPTS[name]) for name in names]

        found = pair.logits(*samples)

        for sample, logits, name in zip(samples, found, names, strict=True):
            check(sample, logits, pair.expected(PROMPTS[name]))


@pytest.mark.parametrize("name", ["image first", "two images"])
def test_a_cut_in_a_text_keeps_the_images_before_it(pair: Pair, name: str):
    parts = PROMPTS[name]
    whole = pair.prompt(parts)
    behind, length = whole.image_spans[-1][1], len(whole.token_ids)
    cuts = (behind, behind + 1, behind + 3, length - 1)

    samples = [pair.sample(parts, max_tokens) for max_tokens in cuts]

    for sample, max_tokens in zip(samples, cuts, strict=True):
        assert len(sample.prompt.token_ids) == max_tokens
        assert len(sample.images) == len(whole.image_spans)
    for sample, logits in zip(samples, pair.logits(*samples), strict=True):
        check(sample, logits, pair.expected(parts))


def test_a_cut_before_an_image_at_the_end_leaves_the_text_alone(pair: Pair):
    parts = PROMPTS["image last"]
    [(start, _)] = pair.prompt(parts).image_spans

    sample = pair.sample(parts, start - 2)

    assert len(sample.prompt.token_ids) == start - 2
    assert not sample.images
    check(sample, pair.logits(sample)[0], pair.expected(parts))


@pytest.mark.parametrize("place", ["its first token", "the middle", "its last token"])
@pytest.mark.parametrize("number", [0, 1])
def test_d6_a_cut_inside_an_image_leaves_it_out_and_keeps_those_before(
    pair: Pair, number: int, place: str
):
    parts = PROMPTS["two images"]
    start, end = pair.prompt(parts).image_spans[number]
    at = {"its first token": start + 1, "the middle": (start + end) // 2, "its last token": end - 1}

    sample = pair.sample(parts, at[place])

    assert len(sample.prompt.token_ids) == start  # nothing of the image is left
    assert len(sample.images) == number
    check(sample, pair.logits(sample)[0], pair.expected(parts))


def test_a_sample_that_lost_its_image_shifts_nothing_in_a_batch(pair: Pair):
    """In the original code it raised, or the sample behind it would have got the image."""
    two, one = PROMPTS["two images"], PROMPTS["image last"]
    start, end = pair.prompt(two).image_spans[1]
    samples = [pair.sample(one), pair.sample(two, (start + end) // 2), pair.sample(one)]

    found = pair.logits(*samples)

    for sample, logits, parts in zip(samples, found, (one, two, one), strict=True):
        check(sample, logits, pair.expected(parts))


def test_every_image_of_a_batch_decides(pair: Pair):
    """Otherwise the tests above would say little."""
    parts = PROMPTS["two images"]
    first, _, second, _ = (n for n in range(len(parts)))
    [base] = pair.logits(pair.sample(parts))
    for place in (first, second):
        others = [picture(9) if n == place else part for n, part in enumerate(parts)]
        [changed] = pair.logits(pair.sample(others))
        assert difference(base[-1:], changed[-1:]) > 1e-2


def check(sample: Sample, logits: torch.Tensor, whole: Run) -> None:
    """Assert that a prompt, or its beginning, has the original's ids and logits."""
    length = len(sample.prompt.token_ids)
    assert sample.prompt.token_ids == whole.token_ids[:length]
    assert difference(logits, whole.logits[:length]) <= TOLERANCE
