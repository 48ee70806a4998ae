"""Converted checkpoints in transformers against a plain forward pass over the original tensors."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tests.modeling import original_layouts as originals
from tests.modeling import reference_llava as reference
from tests.modeling.conftest import Converted

BOS_V1, BOS_V15 = 2, 1
PAD, PATCH, START, END = (originals.VOCAB + i for i in range(4))
IMAGE_V15 = originals.VOCAB
TOLERANCE = 1e-5
# What the templates put around a question (modeling/conversation_templates.py, as text).
V0 = (
    "You are a careful biomedical assistant. You understand the images that the user shows and "
    "answer helpfully, in detail and politely.###Human: Hi!###Assistant: Hello! What shall we "
    "look at?\n###Human: ",
    "###Assistant:",
)
MISTRAL = ("[INST] ", " [/INST]")
Part = str | Image.Image


def picture(seed: int, width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PROMPTS: dict[str, list[Part]] = {
    "image first": [picture(1), "\nWhat is shown?"],
    "image last": ["What is shown?\n", picture(2)],
    "two images": [picture(3), "\nand\n", picture(4), "\nWhat differs?"],
    "text only": ["Is the heart enlarged?"],
    "a later text of bytes": [picture(5), "\nGröße 12.5 µm?  胸部"],
}


@pytest.mark.parametrize("name", PROMPTS)
def test_v1_has_the_logits_of_the_original(v1: Converted, name: str):
    logits, token_ids = converted_logits(v1.hf, PROMPTS[name])
    expected = V1(v1.original, clip_images).run(PROMPTS[name])

    assert token_ids == expected.token_ids
    assert difference(logits, expected.logits) <= TOLERANCE


@pytest.mark.parametrize("name", PROMPTS)
def test_v1_with_biomedclip_has_the_logits_of_the_original(v1_biomedclip: Converted, name: str):
    logits, token_ids = converted_logits(v1_biomedclip.hf, PROMPTS[name])
    expected = V1(v1_biomedclip.original, vit_images).run(PROMPTS[name])

    assert token_ids == expected.token_ids
    assert difference(logits, expected.logits) <= TOLERANCE


@pytest.mark.parametrize("name", PROMPTS)
def test_v15_has_the_logits_of_the_original(v15: Converted, name: str):
    logits, token_ids = converted_logits(v15.hf, PROMPTS[name], pads=True)
    expected = V15(v15.original, own_images).run(PROMPTS[name])

    assert token_ids == expected.token_ids
    assert difference(logits, expected.logits) <= TOLERANCE


def test_v15_with_the_stock_tower_has_its_features(v15_stock: Converted):
    prompt = PROMPTS["image first"]
    logits, _ = converted_logits(v15_stock.hf, prompt, pads=True)
    expected = V15(v15_stock.original, stock_images).run(prompt)
    own = V15(v15_stock.original, own_images).run(prompt)

    assert difference(logits, expected.logits) <= TOLERANCE
    assert difference(logits, own.logits) > 1e-2


def test_the_image_decides_the_logits_behind_it(v1: Converted):
    question = "\nWhat is shown?"
    one, _ = converted_logits(v1.hf, [picture(1), question])
    other, _ = converted_logits(v1.hf, [picture(2), question])
    assert difference(one[-1:], other[-1:]) > 1e-2


def test_each_of_two_images_decides(v1: Converted):
    """In the original code only the last image of a sample survived."""
    first, second = picture(3), picture(4)
    base, _ = converted_logits(v1.hf, [first, "\nand\n", second, "\n?"])
    changed_first, _ = converted_logits(v1.hf, [picture(9), "\nand\n", second, "\n?"])
    changed_second, _ = converted_logits(v1.hf, [first, "\nand\n", picture(9), "\n?"])

    assert difference(base[-1:], changed_first[-1:]) > 1e-2
    assert difference(base[-1:], changed_second[-1:]) > 1e-2


def test_a_text_between_images_in_a_batch_shifts_nothing(v1: Converted):
    """In the original code the sample after a text got the wrong image."""
    names = ("image first", "text only", "image last")
    model, processor = load(v1.hf)
    texts = [render(processor, PROMPTS[name]) for name in names]
    images = [part for name in names for part in PROMPTS[name] if isinstance(part, Image.Image)]
    inputs = processor(
        text=texts, images=images, return_tensors="pt", padding=True, add_special_tokens=False
    )
    with torch.no_grad():
        batch = model(**inputs).logits
    for row, name in enumerate(names):
        alone = V1(v1.original, clip_images).run(PROMPTS[name])
        length = len(alone.token_ids)
        assert difference(batch[row, -length:], alone.logits) <= TOLERANCE  # padded on the left


def test_a_truncated_prompt_has_the_logits_of_its_rest(v1: Converted):
    model, processor = load(v1.hf)
    inputs = processor(
        text=render(processor, PROMPTS["image first"]),
        images=[PROMPTS["image first"][0]],
        return_tensors="pt",
        add_special_tokens=False,
    )
    whole = V1(v1.original, clip_images).run(PROMPTS["image first"])
    length = whole.token_ids.index(END) + 3  # behind the image, in the middle of the question
    with torch.no_grad():
        logits = model(
            input_ids=inputs["input_ids"][:, :length], pixel_values=inputs["pixel_values"]
        ).logits[0]
    assert difference(logits, whole.logits[:length]) <= TOLERANCE


@pytest.mark.parametrize("name", ["v1", "v15"])
def test_greedy_tokens_are_those_of_the_original(name: str, v1: Converted, v15: Converted):
    prompt, pads = PROMPTS["image first"], name == "v15"
    original = V15(v15.original, own_images) if pads else V1(v1.original, clip_images)
    model, processor = load((v15 if pads else v1).hf)
    inputs = processor(
        text=render(processor, prompt),
        images=[prepared(prompt[0], pads)],
        return_tensors="pt",
        add_special_tokens=False,
    )
    # no end: it would cut what is compared
    settings = {"do_sample": False, "eos_token_id": -1, "stop_strings": None}
    made = model.generate(**inputs, max_new_tokens=12, **settings)
    assert made[0, inputs["input_ids"].shape[1] :].tolist() == original.greedy(prompt, 12)


def test_every_text_of_v1_begins_with_its_own_bos(v1: Converted):
    """`</s>`, id 2: released weights never saw `<s>` at the front."""
    _, processor = load(v1.hf)
    assert processor.tokenizer.bos_token == "</s>"
    assert processor.tokenizer("x")["input_ids"][0] == BOS_V1
    assert render(processor, ["x"]).startswith("</s>You are")


def test_every_text_of_v15_begins_with_s(v15: Converted):
    _, processor = load(v15.hf)
    assert processor.tokenizer("x")["input_ids"][0] == BOS_V15


def test_no_new_token_of_v15_is_ever_the_likeliest(v15: Converted):
    weights = stored(v15.hf)["language_model.lm_head.weight"]
    states = torch.randn(500, weights.shape[1], generator=torch.Generator().manual_seed(0))
    assert int((states @ weights.T).argmax(-1).max()) < originals.VOCAB


@dataclass(frozen=True)
class Run:
    token_ids: list[int]
    features: list[torch.Tensor]
    logits: torch.Tensor


class Original:
    """A checkpoint in its original layout, run by the reference."""

    bos = BOS_V1
    placeholder = PATCH
    around: tuple[list[int], list[int]] = ([START], [END])
    template = V0
    heads, kv_heads, eps, theta = 4, 4, 1e-6, 1e4

    def __init__(self, folder: Path, images: Callable[..., torch.Tensor]) -> None:
        self._slow = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self._tensors = read_original(folder)
        self._images = images

    def run(self, parts: Sequence[Part]) -> Run:
        images = [part for part in parts if isinstance(part, Image.Image)]
        features = [
            reference.project(self._tensors, self._images(self._tensors, image)) for image in images
        ]
        token_ids = self._token_ids(parts, [len(each) for each in features])
        return Run(token_ids, features, self._logits(token_ids, features))

    def greedy(self, parts: Sequence[Part], count: int) -> list[int]:
        run = self.run(parts)
        made: list[int] = []
        for _ in range(count):
            made.append(int(self._logits([*run.token_ids, *made], run.features)[-1].argmax()))
        return made

    def _logits(self, token_ids: list[int], features: list[torch.Tensor]) -> torch.Tensor:
        embedded = reference.embed(self._tensors, token_ids, features, self.placeholder)
        return reference.decoder_logits(
            self._tensors, embedded, self.heads, self.kv_heads, self.eps, self.theta
        )

    def _token_ids(self, parts: Sequence[Part], num_patches: list[int]) -> list[int]:
        """Each stretch of text between images by itself."""
        token_ids = [self.bos]
        start, end = self.around
        counts = iter([*num_patches, None])
        for stretch in self.stretches([self.template[0], *parts, self.template[1]]):
            token_ids += self._slow.encode(stretch)
            if (count := next(counts)) is not None:
                token_ids += [*start, *([self.placeholder] * count), *end]
        return token_ids

    def stretches(self, parts: Sequence[Part]) -> list[str]:
        found = [""]
        for part in parts:
            if isinstance(part, str):
                found[-1] += part
            else:
                found.append("")
        return found


class V1(Original):
    def stretches(self, parts: Sequence[Part]) -> list[str]:
        """transformers 4.28 took white space away on both sides of an added token."""
        found = super().stretches(parts)
        last = len(found) - 1
        found = [text.lstrip() if index else text for index, text in enumerate(found)]
        return [text.rstrip() if index < last else text for index, text in enumerate(found)]


class V15(Original):
    bos = BOS_V15
    placeholder = IMAGE_V15
    around = ([], [])
    template = MISTRAL
    kv_heads, eps, theta = 2, 1e-5, 1e6


def clip_images(_: reference.Tensors, image: Image.Image) -> torch.Tensor:
    tensors = originals.clip_tensors(originals.SIZES, seed=7)
    return reference.clip_features(tensors, "vision_model.", cropped(image, 56), heads=1)


def vit_images(_: reference.Tensors, image: Image.Image) -> torch.Tensor:
    tensors = originals.vit_tensors(originals.VIT_SIZES, seed=9)
    return reference.vit_features(tensors, cropped(image, 64), heads=1)


def own_images(tensors: reference.Tensors, image: Image.Image) -> torch.Tensor:
    prefix = "model.vision_tower.vision_tower.vision_model."
    return reference.clip_features(tensors, prefix, padded(image, 56), heads=1)


def stock_images(_: reference.Tensors, image: Image.Image) -> torch.Tensor:
    tensors = originals.clip_tensors(originals.MISTRAL_SIZES, seed=7)
    return reference.clip_features(tensors, "vision_model.", padded(image, 56), heads=1)


MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def cropped(image: Image.Image, side: int) -> torch.Tensor:
    """CLIP's preprocessing by hand: shorter side, centre, mean and deviation."""
    width, height = image.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return normalised(resized.crop((left, top, left + side, top + side)))


def padded(image: Image.Image, side: int) -> torch.Tensor:
    return normalised(squared(image).resize((side, side), Image.Resampling.BICUBIC))


def squared(image: Image.Image) -> Image.Image:
    """v1.5: a square of the mean colour, the image in its middle."""
    width, height = image.size
    longest = max(width, height)
    square = Image.new("RGB", (longest, longest), tuple(int(255 * mean) for mean in MEAN))
    square.paste(image, ((longest - width) // 2, (longest - height) // 2))
    return square


def normalised(image: Image.Image) -> torch.Tensor:
    values = np.asarray(image, dtype=np.float32) / 255
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    return torch.from_numpy((values - mean) / std).permute(2, 0, 1)


def prepared(part: Part, pads: bool) -> Image.Image:
    assert isinstance(part, Image.Image)
    return squared(part) if pads else part


def converted_logits(
    folder: Path, parts: Sequence[Part], *, pads: bool = False
) -> tuple[torch.Tensor, list[int]]:
    """Return transformers' logits [L, V] and token ids; HF's processor crops, so pad before it."""
    model, processor = load(folder)
    images = [prepared(part, pads) for part in parts if isinstance(part, Image.Image)]
    inputs = processor(
        text=render(processor, parts), images=images or None, return_tensors="pt",
        add_special_tokens=False,
    )  # fmt: skip
    with torch.no_grad():
        return model(**inputs).logits[0], inputs["input_ids"][0].tolist()


def render(processor, parts: Sequence[Part]) -> str:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


@functools.lru_cache(maxsize=8)
def load(folder: Path):
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    model, report = loaded
    assert not any(report.values()), report  # nothing is missing, nothing is left over
    return model.eval(), AutoProcessor.from_pretrained(folder, backend="pil")


def read_original(folder: Path) -> reference.Tensors:
    tensors: reference.Tensors = {}
    for file in sorted(folder.glob("*.bin")):
        tensors |= torch.load(file, weights_only=True)
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def stored(folder: Path) -> reference.Tensors:
    tensors: reference.Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference over the ids that both have."""
    ids = min(one.shape[-1], other.shape[-1])
    return float((one[..., :ids] - other[..., :ids]).abs().max())
