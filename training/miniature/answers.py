"""Asks a finished checkpoint the questions of a VQA file, greedily, and scores what it says.

Prompts are made by the code that serves. What does *not* live here: the scores that papers are
compared by; these are the plain ones of docs/miniature.md.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from modeling.conversations import Conversation, parse_item
from training.examples import ExampleTokeniser
from training.miniature.noise import noise_image
from training.processor import open_processing
from training.step_data import ImageFiles

_BATCH = 128  # questions
_MOST_PROMPT_TOKENS = 2048  # none is cut: the model's own context
_MOST_TOKENS = 24  # of an answer: the longest sentence of stage 2
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to one question.

    Args:
        kind: its `question_type`.
    """

    id: str
    image: str
    question: str
    kind: str
    is_closed: bool
    reference: str
    said: str

    @property
    def score(self) -> float:
        """1 or 0 for a closed question; the share of the reference's words for an open one."""
        score = closed_accuracy if self.is_closed else open_recall
        return score(self.reference, self.said)


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over questions, from 0 to 1.

    Args:
        by_kind: of each `CLOSED kind` and `OPEN kind`: mean and number of questions.
    """

    closed: float
    open: float
    by_kind: Mapping[str, tuple[float, int]]


def closed_accuracy(reference: str, said: str) -> float:
    """Return whether the one of yes and no that an answer says, as a word, is the right one."""
    found = {word for word in _words(said) if word in {"yes", "no"}}
    return float(found == {reference})


def open_recall(reference: str, said: str) -> float:
    """Return the share of the reference's words that an answer holds, each as often as there."""
    wanted, given = Counter(_words(reference)), Counter(_words(said))
    return sum((wanted & given).values()) / sum(wanted.values())


def score(answers: Sequence[Answer]) -> Scores:
    """Return the means."""
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        by_kind[f"{'CLOSED' if answer.is_closed else 'OPEN'} {answer.kind}"].append(answer.score)
    means = {kind: (float(np.mean(s)), len(s)) for kind, s in sorted(by_kind.items())}
    return Scores(
        closed=float(np.mean([a.score for a in answers if a.is_closed])),
        open=float(np.mean([a.score for a in answers if not a.is_closed])),
        by_kind=means,
    )


class Answerer:
    """A checkpoint, loaded.

    Args:
        shows_noise: noise stands in for every image: what is answered then was not seen.
    """

    def __init__(self, checkpoint: Path, image_folder: Path, *, shows_noise: bool = False) -> None:
        processing = open_processing(checkpoint)
        self._tokenizer = processing.processor.tokenizer
        self._model: Any = LlavaForConditionalGeneration.from_pretrained(
            checkpoint, local_files_only=True
        ).eval()
        self._images = ImageFiles(image_folder, processing)
        self._shows_noise = shows_noise
        self._tokeniser = ExampleTokeniser(processing, None, _MOST_PROMPT_TOKENS)

    def answer(self, questions: Path) -> list[Answer]:
        """Return the answers to all questions of a file."""
        records = json.loads(questions.read_text("utf-8"))
        batches = (records[at : at + _BATCH] for at in range(0, len(records), _BATCH))
        return [answer for batch in batches for answer in self._answer(batch)]

    def _answer(self, records: Sequence[Mapping[str, Any]]) -> Iterator[Answer]:
        prompts = [self._prompt_of(record) for record in records]
        tokenizer = self._tokenizer
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        pixels = torch.stack([self._pixels(str(record["image"])) for record in records])
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs, pixel_values=pixels, do_sample=False, max_new_tokens=_MOST_TOKENS
            )
        said = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], True)
        for record, text in zip(records, said, strict=True):
            question, reference = (str(turn["value"]) for turn in record["conversations"])
            yield Answer(
                id=str(record["id"]),
                image=str(record["image"]),
                question=question.removeprefix("<image>").strip(),
                kind=str(record["question_type"]),
                is_closed=record["answer_type"] == "CLOSED",
                reference=reference,
                said=text.strip(),
            )

    def _prompt_of(self, record: Mapping[str, Any]) -> list[int]:
        return self._tokeniser.question_ids(Conversation(parse_item(record).turns[:1]))

    def _pixels(self, name: str) -> torch.Tensor:
        if self._shows_noise:
            return self._images.pixels_of(noise_image(name))
        return self._images.read(name)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
