"""What one card computes in one optimizer step: rows of tokens, and their images.

Read in the processes of a data loader, from the records themselves, so that memory does not grow
with the data. An image that cannot be read takes its example out of the step, and is reported. What
does *not* live here: which examples a step has (`batching.py`).
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from modeling.image_processing import normalise_to_rgb
from modeling.image_recipe import pixel_values
from modeling.medical_images.signatures import is_dicom, is_nifti
from training.audit import DataTable
from training.batching import Row, StepPlan, micro_batches, rows_of
from training.config import BatchConfig
from training.examples import Example
from training.processor import LlavaProcessing
from training.rows import PADDING, RowExample, Rows, flattened, make_rows
from training.segment_attention import Span, spans_where_quicker

_UNREADABLE = (
    OSError, ValueError, SyntaxError, Warning, EOFError, IndexError, KeyError, TypeError,
    OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""
_HEAD_BYTES = 4096


class ImageError(Exception):
    """An image that cannot be read; the message is the reason and names no content."""


class ImageSource(Protocol):
    """Where images come from: their files, or features computed before."""

    argument: str
    """Of `LlavaForTraining.forward`."""

    def read(self, name: str) -> torch.Tensor:
        """Return one image; raises ImageError."""
        ...


class ImageFiles:
    """Pixels, preprocessed as serving does it.

    Args:
        folder: None where no record has an image.
    """

    argument = "pixel_values"

    def __init__(self, folder: Path | None, processing: LlavaProcessing) -> None:
        self._folder = folder or Path()
        self._processing = processing

    def read(self, name: str) -> torch.Tensor:
        """Return float32 [3, H, W]; raises ImageError."""
        try:
            with Image.open(self._folder / name) as image:
                return self.pixels_of(normalise_to_rgb(image))
        except _UNREADABLE as error:
            raise ImageError(_why_unread(self._folder / name, error)) from error

    def pixels_of(self, rgb: Image.Image) -> torch.Tensor:
        """Return what the tower gets of an image: float32 [3, H, W]."""
        processing = self._processing
        pixels = pixel_values(rgb, processing.processor.image_processor, processing.recipe)
        return torch.from_numpy(np.ascontiguousarray(pixels[0]))


def _why_unread(file: Path, error: Exception) -> str:
    """Return the reason; DICOM and NIfTI are not read here.

    One frame, its window and the policy for burned-in text are chosen, checked and written down
    once, by the data tools, not again in each epoch.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except (OSError, ValueError):
        head = b""
    if is_dicom(head) or is_nifti(head):
        return "its image is DICOM or NIfTI: make PNG of them with `galen data captions`"
    return f"its image cannot be read ({type(error).__name__})"


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass.

    Args:
        images: [N, ...] for `argument` of the model's forward; None: it shows none.
        records: of its examples, to name them.
        spans: where attention is computed for each alone; None: with a mask, or by flash-attn.
    """

    rows: Rows
    images: torch.Tensor | None
    argument: str
    records: tuple[int, ...]
    is_flat: bool
    spans: tuple[Span, ...] | None = None

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """Return the arguments of `LlavaForTraining.forward`."""
        tensors: dict[str, Any] = {
            "input_ids": self.rows.input_ids,
            "position_ids": self.rows.position_ids,
            "targets": self.rows.targets,
        }
        if not self.is_flat and self.spans is None:
            tensors |= {"segments": self.rows.segments, "prefixes": self.rows.prefixes}
        if self.images is not None:
            tensors[self.argument] = self.images
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return moved if self.spans is None else moved | {"spans": self.spans}


@dataclass(frozen=True, slots=True)
class RankStep:
    """One card's share of an optimizer step.

    Args:
        unreadable: record and reason of each example that had to be left out.
    """

    step: int
    micro_batches: tuple[MicroBatch, ...]
    unreadable: tuple[tuple[int, str], ...]

    @property
    def num_targets(self) -> int:
        """Tokens that the loss counts."""
        return sum(batch.rows.num_targets for batch in self.micro_batches)

    @property
    def num_tokens(self) -> int:
        """Tokens, padding aside."""
        return sum(batch.rows.num_tokens for batch in self.micro_batches)

    @property
    def attended_tokens(self) -> float:
        """Sum over all tokens of the length of the example that each stands in.

        The positions p of an example of n tokens give 2 p + 1 summed, which is n * n.
        """
        return float(
            sum(
                (2 * rows.position_ids + 1)[rows.segments != PADDING].sum()
                for rows in (batch.rows for batch in self.micro_batches)
            )
        )

    @property
    def num_images(self) -> int:
        """Images that are encoded."""
        return sum(len(batch.rows.images) for batch in self.micro_batches)


@dataclass(frozen=True, slots=True)
class StepDataset(Dataset[RankStep]):
    """All steps of a run, for one card.

    Args:
        row_tokens: of a packed row.
        is_flat: each micro-batch is one row without padding, for flash attention.
    """

    table: DataTable
    plan: StepPlan
    batch: BatchConfig
    row_tokens: int
    images: ImageSource
    pad_id: int
    rank: int = 0
    num_ranks: int = 1
    is_flat: bool = False

    def __len__(self) -> int:
        return self.plan.total_steps

    def __getitem__(self, step: int) -> RankStep:
        examples = self.plan.examples_of(step).tolist()
        rows = rows_of(
            examples,
            self.plan.lengths,
            self.batch.layout,
            self.row_tokens,
            shares_prefixes=not self.is_flat,
        )
        mine = micro_batches(rows, self.batch.rows, self.num_ranks)[self.rank]
        unreadable: list[tuple[int, str]] = []
        made = tuple(self._micro_batch(batch, unreadable) for batch in mine)
        return RankStep(step, made, tuple(unreadable))

    def _micro_batch(self, rows: Sequence[Row], unreadable: list[tuple[int, str]]) -> MicroBatch:
        images: list[torch.Tensor] = []
        numbers: dict[str, int] = {}
        records: list[int] = []
        made: list[list[RowExample]] = []
        for row in rows:
            in_row: list[RowExample] = []
            for number in row:
                example = self.table.example(number)
                if self._read_images(example, numbers, images, unreadable):
                    shown = tuple(numbers[name] for name in example.images)
                    in_row.append(RowExample(example.prompt, self._num_shared(number), shown))
                    records.append(example.record)
            made.append(in_row)
        tensors = make_rows([row for row in made if row], self.pad_id)
        return MicroBatch(
            rows=flattened(tensors) if self.is_flat else tensors,
            images=torch.stack([images[n] for n in tensors.images]) if tensors.images else None,
            argument=self.images.argument,
            records=tuple(records),
            is_flat=self.is_flat,
            spans=self._spans(tensors),
        )

    def _spans(self, rows: Rows) -> tuple[Span, ...] | None:
        is_packed = self.batch.layout == "packed" and not self.is_flat
        return spans_where_quicker(rows) if is_packed else None

    def _read_images(
        self,
        example: Example,
        numbers: dict[str, int],
        images: list[torch.Tensor],
        unreadable: list[tuple[int, str]],
    ) -> bool:
        try:
            for name in example.images:
                if name not in numbers:
                    images.append(self.images.read(name))
                    numbers[name] = len(images) - 1
        except ImageError as error:
            unreadable.append((example.record, str(error)))
            return False
        return True

    def _num_shared(self, number: int) -> int:
        lengths = self.plan.lengths
        is_shared = not self.is_flat and lengths.prefix_key[number] >= 0
        return int(lengths.prefix_tokens[number]) if is_shared else 0


def only_one(steps: list[RankStep]) -> RankStep:
    """Return the step of a loader's batch of one."""
    return steps[0]
