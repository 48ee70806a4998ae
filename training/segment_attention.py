"""Attention of packed rows, computed example by example where that is less work than a mask.

A mask lets PyTorch's kernels compute a row as a whole and throw away what one example would see of
another: of a row of 2,048 tokens that holds four examples, three quarters. Here each example is a
call of its own, causal and without a mask, which is also what the fast kernels ask for. The
flash-attn package does the same in one call; this needs no package and runs on a CPU. What does
*not* live here: the mask (`rows.py`), and which examples form a row (`batching.py`).

Shapes: R rows, L tokens, A heads, D width of a head, Q tokens of a span, K tokens it sees.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.rows import PADDING, Rows

ATTENTION = "galen_segments"
"""The implementation's name in transformers' registry."""
_LEAST_MEAN_TOKENS = 64
"""Below it a call costs more than what it computes."""
_MOST_SHARE = 0.5
"""Of a masked row's work that the calls may be."""


class Span(NamedTuple):
    """Consecutive tokens of one row, and the beginning of the row that they also see.

    Args:
        prefix_start: with `prefix_end` both 0 where they see nothing but themselves.
    """

    row: int
    start: int
    end: int
    prefix_start: int
    prefix_end: int

    @property
    def work(self) -> int:
        """Pairs of query and key."""
        queries = self.end - self.start
        return queries * (queries + self.prefix_end - self.prefix_start)


def spans_of(rows: Rows) -> tuple[Span, ...]:
    """Return the spans of all rows in their order; padding belongs to none."""
    found: list[Span] = []
    for row, (segments, prefixes) in enumerate(
        zip(rows.segments.tolist(), rows.prefixes.tolist(), strict=True)
    ):
        places: dict[int, tuple[int, int]] = {}
        start = 0
        for end in range(1, len(segments) + 1):
            if end < len(segments) and segments[end] == segments[start]:
                continue
            number, prefix = segments[start], prefixes[start]
            if number != PADDING:
                places[number] = (start, end)
                found.append(
                    Span(row, start, end, *(places[prefix] if prefix != number else (0, 0)))
                )
            start = end
    return tuple(found)


def spans_where_quicker(rows: Rows) -> tuple[Span, ...] | None:
    """Return the spans where computing each alone is less work than the mask; else None."""
    spans = spans_of(rows)
    masked = rows.segments.numel() * rows.segments.shape[1]
    is_long = rows.num_tokens >= _LEAST_MEAN_TOKENS * len(spans)
    is_less = sum(span.work for span in spans) <= _MOST_SHARE * masked
    return spans if is_long and is_less else None


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    spans: tuple[Span, ...] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return [R, L, A, D]; zeros where a row is padded.

    Args:
        query: [R, A, L, D]; key and value may have fewer heads.
        attention_mask: bool [R, 1, L, L]; used where there are no spans, else anything.
        spans: in the order of rows and tokens.
    """
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    num_rows, num_heads, length, _ = query.shape
    parts: list[list[torch.Tensor]] = [[] for _ in range(num_rows)]
    for span in spans:
        row, own = slice(span.row, span.row + 1), slice(span.start, span.end)
        keys, values = key[row, :, own], value[row, :, own]
        mask = None
        if span.prefix_end:
            prefix = slice(span.prefix_start, span.prefix_end)
            keys = torch.cat([key[row, :, prefix], keys], dim=2)
            values = torch.cat([value[row, :, prefix], values], dim=2)
            mask = _behind_a_prefix(span, query.device)
        found, _ = sdpa_attention_forward(module, query[row, :, own], keys, values, mask, **options)
        parts[span.row].append(found)
    for made in parts:
        padding = length - sum(part.shape[1] for part in made)
        made.append(value.new_zeros(1, padding, num_heads, value.shape[-1]))
    return torch.cat([torch.cat(made, dim=1) for made in parts]), None


def _behind_a_prefix(span: Span, device: torch.device) -> torch.Tensor:
    """Return bool [1, 1, Q, K]: all of the prefix, and of the span what is not behind."""
    queries, prefix = span.end - span.start, span.prefix_end - span.prefix_start
    sees = torch.ones(queries, prefix + queries, dtype=torch.bool, device=device)
    return sees.tril(diagonal=prefix)[None, None]


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
