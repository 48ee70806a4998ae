"""Rows of tokens: several examples side by side, none of which sees another.

Each example's positions begin at 0, and it attends to itself alone. Examples of one image whose
first tokens are the same, up to the image's end, stand behind one copy of these: each attends to
the copy and to itself, and its positions go on behind the copy. As attention is causal, that is
exactly what each would compute alone. What does *not* live here: which examples form a row
(`batching.py`).

Shapes: R rows, L tokens of the longest, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from modeling.prompt import IGNORE_INDEX, TokenisedPrompt

PADDING = -1
"""Segment of a place that holds no token."""


@dataclass(frozen=True, slots=True)
class RowExample:
    """One example of a row.

    Args:
        prefix_tokens: it may share so many first tokens, none of which nor the next one is trained,
            with others of its row that show the same images; 0: none.
        images: of its prompt's places, in their order; each a number in the micro-batch's images.
    """

    prompt: TokenisedPrompt
    prefix_tokens: int = 0
    images: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """What a model's forward pass takes.

    Args:
        input_ids: long [R, L].
        position_ids: long [R, L]; they begin anew with each example.
        targets: long [R, L]: the token that follows, where the loss counts it, else
            `IGNORE_INDEX`. They are shifted already.
        segments: long [R, L]: which example, or shared beginning, of the row; -1 where padded.
        prefixes: long [R, L]: the shared beginning that an example also sees; its own number where
            it has none.
        images: for each image place of all rows, in their order, its number; N of them.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    segments: torch.Tensor
    prefixes: torch.Tensor
    images: tuple[int, ...]

    @property
    def num_targets(self) -> int:
        """How many tokens the loss counts."""
        return int((self.targets != IGNORE_INDEX).sum())

    @property
    def num_tokens(self) -> int:
        """How many tokens there are, padding aside."""
        return int((self.segments != PADDING).sum())


def make_rows(rows: Sequence[Sequence[RowExample]], pad_id: int) -> Rows:
    """Return the tensors of rows; without any rows, one that holds a single token and no loss."""
    made = [_make_row(row) for row in rows] or [_empty(pad_id)]

    def padded(name: str, padding: int) -> torch.Tensor:
        tensors = [torch.tensor(getattr(row, name), dtype=torch.long) for row in made]
        return pad_sequence(tensors, batch_first=True, padding_value=padding)

    return Rows(
        input_ids=padded("input_ids", pad_id),
        position_ids=padded("position_ids", 0),
        targets=padded("targets", IGNORE_INDEX),
        segments=padded("segments", PADDING),
        prefixes=padded("prefixes", PADDING),
        images=tuple(image for row in made for image in row.images),
    )


def attention_mask(segments_RL: torch.Tensor, prefixes_RL: torch.Tensor) -> torch.Tensor:
    """Return which tokens see which: bool [R, 1, L, L], queries first.

    Padding sees itself, as a row of zeros has no softmax.
    """
    length = segments_RL.shape[1]
    queries_RL1, keys_R1L = segments_RL[:, :, None], segments_RL[:, None, :]
    same_RLL = (queries_RL1 == keys_R1L) | (prefixes_RL[:, :, None] == keys_R1L)
    device = segments_RL.device
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    itself_LL = torch.eye(length, dtype=torch.bool, device=device)
    real_RL1 = queries_RL1 != PADDING
    return ((same_RLL & causal_LL & real_RL1) | itself_LL)[:, None]


def flattened(rows: Rows) -> Rows:
    """Return one row that holds all, for kernels that find examples by their positions alone.

    Raises:
        ValueError: examples share a beginning, which these kernels cannot show them.
    """
    if not torch.equal(rows.segments, rows.prefixes):
        raise ValueError("examples share the beginning of a row; flash attention cannot do that")
    real_RL = rows.segments != PADDING
    row_R1 = torch.arange(len(rows.segments))[:, None]
    numbers = (row_R1 * (int(rows.segments.max()) + 1) + rows.segments)[real_RL][None]
    return Rows(
        rows.input_ids[real_RL][None],
        rows.position_ids[real_RL][None],
        rows.targets[real_RL][None],
        numbers,
        numbers,
        rows.images,
    )


@dataclass(slots=True)
class _Row:
    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    num_segments: int = 0

    def append(self, ids: list[int], targets: list[int], start: int, prefix: int | None) -> int:
        """Add a segment whose first position is `start`; returns its number."""
        number = self.num_segments
        self.num_segments += 1
        self.input_ids += ids
        self.position_ids += range(start, start + len(ids))
        self.targets += targets
        self.segments += [number] * len(ids)
        self.prefixes += [number if prefix is None else prefix] * len(ids)
        return number


def _make_row(examples: Sequence[RowExample]) -> _Row:
    row = _Row()
    shared: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    for example in examples:
        ids, targets = example.prompt.token_ids, _targets(example.prompt)
        length = example.prefix_tokens
        if not length:
            row.append(ids, targets, 0, None)
            row.images += example.images
            continue
        beginning = (tuple(ids[:length]), example.images)
        if beginning not in shared:
            shared[beginning] = row.append(ids[:length], targets[:length], 0, None)
            row.images += example.images
        row.append(ids[length:], targets[length:], length, shared[beginning])
    return row


def _targets(prompt: TokenisedPrompt) -> list[int]:
    return [*prompt.labels[1:], IGNORE_INDEX]


def _empty(pad_id: int) -> _Row:
    row = _Row()
    row.append([pad_id], [IGNORE_INDEX], 0, None)
    return row
