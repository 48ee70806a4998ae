"""Samples of different lengths, with no, one or several images each, as one batch.

Which image belongs to which sample is never counted anew: each sample brings its own, as many as
its prompt has places, and they stand in one row in the order of the places. So a text-only sample
takes none, and a sample whose images and places differ is refused by name (LLaVA-Med v1.0 shifted
the images of all samples behind it, in silence). What does *not* live here: tokens (`prompt.py`)
and pixels (`image_recipe.py`).

Shapes: B samples, L tokens of the longest, N images of all samples, C x H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from modeling.prompt import IGNORE_INDEX, TokenisedPrompt


class CollateError(ValueError):
    """A sample that cannot be part of a batch; the message is one line and names it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A tokenised conversation with its images.

    Args:
        name: of the data item, for messages.
        images: pixels of each, float [1, C, H, W] (`image_recipe.pixel_values`), in the order in
            which the conversation shows them.
    """

    name: str
    prompt: TokenisedPrompt
    images: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model's forward takes of several samples, padded on the right.

    Args:
        input_ids: long [B, L].
        attention_mask: long [B, L]; 0 where padded.
        labels: long [B, L]; `IGNORE_INDEX` where the loss does not count, and where padded.
        images: N of float [1, C, H, W], those of the first sample first.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    images: tuple[torch.Tensor, ...]

    def inputs(self) -> dict[str, Any]:
        """Return keyword arguments of a LLaVA's forward, for images of its tower's own size.

        Others (mode `keep`) are to be encoded one by one (`image_features.py`).

        Raises:
            CollateError: the images have several sizes.
        """
        if len({image.shape for image in self.images}) > 1:
            raise CollateError("the images of a batch have several sizes; encode them one by one")
        pixels = {"pixel_values": torch.cat(self.images)} if self.images else {}
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "labels": self.labels,
            **pixels,
        }


def collate(samples: Sequence[Sample], pad_id: int) -> Batch:
    """Return one batch.

    Args:
        pad_id: written behind the shorter samples; any token, as the mask hides it.

    Raises:
        CollateError: a sample has more or fewer images than places for them.
    """
    for sample in samples:
        _check_images(sample)
    return Batch(
        input_ids=_padded([sample.prompt.token_ids for sample in samples], pad_id),
        attention_mask=_padded([[1] * len(sample.prompt.token_ids) for sample in samples], 0),
        labels=_padded([sample.prompt.labels for sample in samples], IGNORE_INDEX),
        images=tuple(image for sample in samples for image in sample.images),
    )


def _check_images(sample: Sample) -> None:
    num_places, num_images = len(sample.prompt.image_spans), len(sample.images)
    if num_places != num_images:
        raise CollateError(
            f"sample {sample.name!r} has {num_images} images and {num_places} places for them; "
            "give one <image> per image, or leave the sample out"
        )


def _padded(rows: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=padding)
