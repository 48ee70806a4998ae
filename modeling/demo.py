"""A tiny LLaVA checkpoint that answers questions about drawn phantoms, trained on two cores.

For the demo only: it knows coloured shapes (`demo_phantoms.py`) and nothing of medicine. Loss on
answer tokens only; the vision tower also gets a throw-away head that names colour, shape and side,
without which it takes far longer to see anything. What does *not* live here: the checkpoint's
layout (`tiny.py`).

Run: python -m modeling.demo OUT [--steps 900] [--seed 0] [--force]
     python -m modeling.demo OUT --check

Shapes: B pictures, P patches, D width, L tokens.
"""

import argparse
import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from modeling.demo_phantoms import (
    COLOURS,
    DESCRIBE,
    QUESTIONS,
    SHAPES,
    SIDES,
    Phantom,
    draw_phantom,
)
from modeling.tiny import (
    IMAGE_ID,
    PAD_ID,
    TOKENIZER_TEXT,
    TinySizes,
    llava_config,
    llava_processor,
    place_patches,
    spread_weights,
    train_tokenizer,
    write_checkpoint,
)

IMAGE_PX = 56
PATCH_PX = 14
SIZES = TinySizes(vision_width=128, vision_layers=3, text_width=128, text_layers=2, init_std=0.07)
BATCH = 32
LEARNING_RATE = 1.5e-3
WARM_UP_STEPS = 30
TRAIN_PICTURES = 4000
HELD_OUT_PICTURES = 200
_HELD_OUT_SEED = 1_000_003
_ATTRIBUTES = (tuple(COLOURS), SHAPES, SIDES)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of held-out phantoms answered exactly right, greedily.

    Args:
        captions: of the four ways to ask what the image shows.
        details: of the questions after colour, shape and side.
        blind: captions where another phantom's picture was shown: what guessing gives.
    """

    captions: float
    details: float
    blind: float


def make_demo_llava(out: Path, *, steps: int = 900, seed: int = 0) -> Path:
    """Train the demo checkpoint and write it to `out`, all of it or nothing.

    Raises:
        FileExistsError: `out` is there already.
        RuntimeError: the loss is not finite.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or choose another directory")
    rng = np.random.default_rng(seed)
    phantoms, images = _draw_many(rng, TRAIN_PICTURES)
    texts = [*TOKENIZER_TEXT, *_sentences()]
    processor = llava_processor(train_tokenizer(texts, 512), image_px=IMAGE_PX, patch_px=PATCH_PX)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(
            llava_config(SIZES, len(processor.tokenizer), IMAGE_PX, PATCH_PX)  # type: ignore[attr-defined]
        )
        spread_weights(model, SIZES.init_std)
        place_patches(model)
        _train(model, _batches(processor, phantoms, images, rng), steps)
    return write_checkpoint(out, model, processor)


def check_demo(path: Path, num_pictures: int = HELD_OUT_PICTURES) -> Accuracy:
    """Ask about phantoms that were not trained on, through the checkpoint's own files."""
    model: Any = AutoModelForImageTextToText.from_pretrained(path)
    processor: Any = AutoProcessor.from_pretrained(path, backend="pil")
    phantoms, images = _draw_many(np.random.default_rng(_HELD_OUT_SEED), num_pictures)
    ask = [QUESTIONS[n % len(QUESTIONS)] for n in range(num_pictures)]
    right = [
        _ask(model, processor, image, question) == phantom.answer(question)
        for phantom, image, question in zip(phantoms, images, ask, strict=True)
    ]
    captions = [ok for ok, question in zip(right, ask, strict=True) if question in DESCRIBE]
    details = [ok for ok, question in zip(right, ask, strict=True) if question not in DESCRIBE]
    shifted = zip(phantoms, [*images[1:], images[0]], strict=True)
    blind = [_ask(model, processor, image, DESCRIBE[0]) == p.caption for p, image in shifted]
    return Accuracy(*(round(sum(s) / len(s), 3) for s in (captions, details, blind)))


def _ask(model: Any, processor: Any, image: Image.Image, question: str) -> str:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=24)
    answer_ids = output[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(answer_ids, skip_special_tokens=True)).strip()


def _draw_many(
    rng: np.random.Generator, num_pictures: int
) -> tuple[list[Phantom], list[Image.Image]]:
    drawn = [draw_phantom(rng) for _ in range(num_pictures)]
    return [phantom for phantom, _ in drawn], [image for _, image in drawn]


def _sentences() -> list[str]:
    """Return every question and answer there is, for the tokenizer to learn its words from."""
    phantoms = [Phantom(c, shape, side) for c in COLOURS for shape in SHAPES for side in SIDES]
    return [f"USER: {q} ASSISTANT: {p.answer(q)}" for p in phantoms for q in QUESTIONS]


@dataclass(frozen=True, slots=True)
class _Batch:
    pixels: torch.Tensor  # float [B, 3, 56, 56]
    input_ids: torch.Tensor  # long [B, L], padded on the right
    labels: torch.Tensor  # long [B, L], -100 but on answers
    attributes: torch.Tensor  # long [B, 3]: colour, shape, side


def _batches(
    processor: LlavaProcessor,
    phantoms: Sequence[Phantom],
    images: Sequence[Image.Image],
    rng: np.random.Generator,
) -> Iterator[_Batch]:
    """Yield batches for ever: a picture and one question each."""
    parts: Any = processor  # its parts are set by name
    pixels = parts.image_processor(list(images), return_tensors="pt")["pixel_values"]
    attributes = torch.tensor(
        [
            [names.index(value) for names, value in zip(_ATTRIBUTES, values, strict=True)]
            for values in ((p.colour, p.shape, p.side) for p in phantoms)
        ]
    )
    num_image_tokens = (IMAGE_PX // PATCH_PX) ** 2

    @functools.cache
    def sequence(phantom: Phantom, question: str) -> tuple[list[int], list[int]]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat: list[Any] = [{"role": "user", "content": content}]
        prompt = str(parts.apply_chat_template(chat, add_generation_prompt=True))
        prompt = prompt.replace("<image>", "<image>" * num_image_tokens)
        prompt_ids = parts.tokenizer.encode(prompt, add_special_tokens=False)
        answer = f" {phantom.answer(question)}</s>"
        answer_ids = parts.tokenizer.encode(answer, add_special_tokens=False)
        return [*prompt_ids, *answer_ids], [-100] * len(prompt_ids) + answer_ids

    while True:
        chosen = rng.integers(0, len(phantoms), BATCH)
        asked = rng.integers(0, len(QUESTIONS), BATCH)
        sequences = [
            sequence(phantoms[n], QUESTIONS[q]) for n, q in zip(chosen, asked, strict=True)
        ]
        length = max(len(ids) for ids, _ in sequences)
        yield _Batch(
            pixels[chosen],
            torch.tensor([ids + [PAD_ID] * (length - len(ids)) for ids, _ in sequences]),
            torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in sequences]),
            attributes[chosen],
        )


def _train(model: LlavaForConditionalGeneration, batches: Iterator[_Batch], steps: int) -> None:
    num_patches = (IMAGE_PX // PATCH_PX) ** 2
    heads = nn.Linear(num_patches * SIZES.vision_width, sum(map(len, _ATTRIBUTES)))
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        LEARNING_RATE,
        total_steps=steps,
        pct_start=min(0.3, WARM_UP_STEPS / steps),
    )
    model.train()
    for _ in range(steps):
        loss = _loss(model, heads, next(batches))
        if not torch.isfinite(loss):
            raise RuntimeError("the loss is not finite; try another seed")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _loss(model: LlavaForConditionalGeneration, heads: nn.Linear, batch: _Batch) -> torch.Tensor:
    """Return the answer tokens' cross-entropy plus that of the throw-away heads."""
    llava: Any = model.model
    states = llava.vision_tower(batch.pixels, output_hidden_states=True).hidden_states
    patches_BPD = states[-2][:, 1:]
    image_features_BPD = llava.multi_modal_projector(patches_BPD)
    embeds_BLD = llava.get_input_embeddings()(batch.input_ids)
    places_BL1 = (batch.input_ids == IMAGE_ID)[..., None]
    embeds_BLD = embeds_BLD.masked_scatter(places_BL1, image_features_BPD)
    # padding stands behind everything that counts, and the mask is causal
    hidden_BLD = llava.language_model(inputs_embeds=embeds_BLD, use_cache=False).last_hidden_state
    targets_BL = batch.labels[:, 1:]
    answers = targets_BL != -100
    logits_NV = model.lm_head(hidden_BLD[:, :-1][answers])
    loss = functional.cross_entropy(logits_NV, targets_BL[answers])
    named_BK = heads(patches_BPD.flatten(1)).split([len(names) for names in _ATTRIBUTES], dim=1)
    for scores_BK, targets_B in zip(named_BK, batch.attributes.unbind(1), strict=True):
        loss = loss + functional.cross_entropy(scores_BK, targets_B)
    return loss


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or check; print one line of JSON."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint on drawn phantoms.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--check", action="store_true", help="ask OUT about held-out phantoms")
    options = parser.parse_args(argv)
    report: dict[str, object] = {"checkpoint": str(options.out)}
    if options.check:
        accuracy = check_demo(options.out)
        report |= {"captions": accuracy.captions, "details": accuracy.details}
        report |= {"blind": accuracy.blind, "pictures": HELD_OUT_PICTURES}
    else:
        if options.force and options.out.exists():
            shutil.rmtree(options.out)
        make_demo_llava(options.out, steps=options.steps, seed=options.seed)
    print(json.dumps(report))  # noqa: T201 (entry point)


if __name__ == "__main__":
    main()
