"""Prefill and decode: the two forward passes of a model, for a batch that changes at every step.

A sequence is prefilled alone, by the model's own forward with a plain cache, so that image
features, masks and positions are the model's own business. Decoding runs all live rows in one
forward, with a mask and positions made here. What does *not* live here: requests
(`batch_scheduler.py`).

Shapes: B live rows, W cache positions in use, V entries of the vocabulary.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from modeling.image_features import as_encoder_outputs, encode_one
from services.worker.engines.base import EngineStartError
from services.worker.engines.checkpoint import text_config_of
from services.worker.engines.image_feature_cache import ImageFeatureCache, ImageKey
from services.worker.engines.image_inputs import take_images
from services.worker.engines.slot_cache import SlotCache

_FULL, _SLIDING = "full_attention", "sliding_attention"
# Difference of logits in a batch and alone, relative to the largest of them. bfloat16 has 8
# significant bits; a wrong mask or position is off by far more. LLM.int8() splits off columns by
# what else is in the batch: 2.7 % after two layers, and more in deeper models.
_TOLERANCE, _TOLERANCE_INT8 = 0.05, 0.2


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A sequence that is not in the batch yet.

    Args:
        next_logits: float32 [V], of the token that comes next.
        rope_delta: the next position is the length plus this (M-RoPE, arXiv:2409.12191).
    """

    next_logits: torch.Tensor
    cache: DynamicCache
    rope_delta: int


class ModelRunner:
    """Runs one model, or this rank's part of it; only from one thread.

    Its layers may lie on several devices: inputs go to the first one, logits come from the last.

    Args:
        max_rows: most live rows.
        context_length: most tokens in a row.
        feature_cache_bytes: of image features that are kept; LLaVA only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        max_rows: int,
        context_length: int,
        feature_cache_bytes: int = 0,
    ) -> None:
        self._model = model
        self._device = model.device
        self._max_rows = max_rows
        self._context_length = context_length
        config = text_config_of(model.config)
        self._layer_types = layer_types_of(config)
        self._window = getattr(config, "sliding_window", None)
        self.tolerance = _TOLERANCE_INT8 if _is_int8(model) else _TOLERANCE
        mask_of = ALL_MASK_ATTENTION_FUNCTIONS.get(config._attn_implementation)
        self._cuts_rows = mask_of is flash_attention_mask
        takes = inspect.signature(model.forward).parameters
        self._forward_options = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        # M-RoPE models keep their last prompt's offset on themselves.
        self._rope_owners = [m for m in model.modules() if hasattr(m, "rope_deltas")]
        self._cache: SlotCache | None = None
        self._rope_deltas: list[int] = []
        self.image_features = ImageFeatureCache(feature_cache_bytes)

    @torch.inference_mode()
    def prefill(self, inputs: dict[str, Any], image_keys: Sequence[ImageKey] = ()) -> Prefilled:
        """Run a whole prompt (`Prompt.inputs`); the batch is not touched.

        Args:
            image_keys: one for each of its images, where features may be kept.
        """
        for owner in self._rope_owners:
            owner.rope_deltas = None  # type: ignore[assignment]  # as before its first forward
        cache = DynamicCache()
        placed = {name: self._to_device(value) for name, value in inputs.items()}
        if isinstance(self._model, LlavaForConditionalGeneration):
            self._encode_images(placed, image_keys)
        output = self._model(
            **placed,
            past_key_values=cache,
            use_cache=True,
            **self._forward_options,
        )
        deltas = [o.rope_deltas for o in self._rope_owners if o.rope_deltas is not None]
        rope_delta = int(deltas[0].flatten()[0]) if deltas else 0  # type: ignore[union-attr]
        return Prefilled(output.logits[0, -1].float(), cache, rope_delta)

    def _encode_images(self, inputs: dict[str, Any], keys: Sequence[ImageKey]) -> None:
        """Put the features of a LLaVA's images in the place of their pixels."""
        images, is_any_size = take_images(inputs)
        if images:
            features = self.image_features.features(
                images, keys, lambda image: encode_one(self._model, image, is_any_size=is_any_size)
            )
            inputs["mm_encoder_outputs"] = {"image": as_encoder_outputs(features)}

    def add_row(self, prefilled: Prefilled) -> int:
        """Put a prefilled sequence into the batch, as its last row; returns the row."""
        if self._cache is None:
            self._cache = SlotCache(
                len(prefilled.cache.layers), self._max_rows, self._context_length
            )
        row = self._cache.add_row(prefilled.cache)
        self._rope_deltas.append(prefilled.rope_delta)
        return row

    def remove_row(self, row: int) -> None:
        """Take a row out; the last row moves into its place."""
        self._live_cache().remove_row(row)
        self._rope_deltas[row] = self._rope_deltas[-1]
        self._rope_deltas.pop()

    def clear(self) -> None:
        """Forget all rows."""
        self._cache = None
        self._rope_deltas.clear()

    @torch.inference_mode()
    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Run one token per live row.

        Args:
            token_ids: the last token of every row, not in the cache yet.

        Returns:
            Logits of the next tokens, float32 [B, V].
        """
        cache = self._live_cache()
        positions_B = cache.begin_step()
        positions_B1 = (positions_B + positions_B.new_tensor(self._rope_deltas))[:, None]
        output = self._model(
            input_ids=positions_B.new_tensor(list(token_ids))[:, None],
            attention_mask=self._decode_mask(positions_B, max(cache.lengths)),
            # M-RoPE: temporal, height and width positions are equal for text
            position_ids=positions_B1.expand(3, -1, -1) if self._rope_owners else positions_B1,
            past_key_values=cache,
            use_cache=True,
            **self._forward_options,
        )
        return output.logits[:, -1].float()

    @property
    def kv_cache_usage(self) -> float:
        """Of the positions that all rows may hold together, the share in use; from any thread."""
        cache = self._cache
        if cache is None:
            return 0.0
        return sum(cache.lengths) / (self._max_rows * self._context_length)

    def _live_cache(self) -> SlotCache:
        if self._cache is None:
            raise RuntimeError("no row was added")
        return self._cache

    def _decode_mask(
        self, positions_B: torch.Tensor, width: int
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return additive masks [B, 1, 1, W]: one, or one per layer type as the model wants.

        flash-attn takes none; transformers cuts each row to its length by a padding mask [B, W].
        """
        distance_BW = positions_B[:, None] - torch.arange(width, device=positions_B.device)
        if self._cuts_rows:
            return distance_BW >= 0
        allowed = {_FULL: distance_BW >= 0}
        if self._window is not None:
            allowed[_SLIDING] = (distance_BW >= 0) & (distance_BW < self._window)
        masks = {
            name: torch.zeros(
                allowed_BW.shape, dtype=self._model.dtype, device=allowed_BW.device
            ).masked_fill(~allowed_BW, torch.finfo(self._model.dtype).min)[:, None, None, :]
            for name, allowed_BW in allowed.items()
            if name in self._layer_types
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _to_device(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return value.to(self._device, self._model.dtype)
        return value.to(self._device)


def layer_types_of(config: PretrainedConfig) -> frozenset[str]:
    """Return the kinds of attention in a language model.

    Raises:
        EngineStartError: one of them keeps a state that is not a plain KV cache.
    """
    listed = getattr(config, "layer_types", None)
    if listed:
        kinds = frozenset(listed)
    else:
        kinds = frozenset({_SLIDING if getattr(config, "sliding_window", None) else _FULL})
    if unknown := kinds - {_FULL, _SLIDING}:
        raise EngineStartError(
            f"the model has {', '.join(sorted(unknown))} layers; this engine batches "
            f"{_FULL} and {_SLIDING} only"
        )
    return kinds


def check_batching(runner: ModelRunner, token_ids: Sequence[int]) -> None:
    """Compare one decode step of two unequal rows with prefilling the same tokens.

    Args:
        token_ids: any 8 or more tokens of ordinary text.

    Raises:
        EngineStartError: they differ: this architecture cannot be run in a batch like this.
    """
    ends = (len(token_ids), len(token_ids) - 3)
    expected = [runner.prefill(_text_inputs(token_ids[:end])).next_logits for end in ends]
    for end in ends:
        runner.add_row(runner.prefill(_text_inputs(token_ids[: end - 1])))
    found_BV = runner.decode([token_ids[end - 1] for end in ends])
    runner.clear()
    for expected_V, found_V in zip(expected, found_BV, strict=True):
        scale = float(expected_V.abs().max())
        error = float((expected_V - found_V).abs().max())
        if not math.isfinite(scale):
            raise EngineStartError(
                "the model's logits are not finite, of a plain text: its weights are damaged, or "
                "too large for this dtype; copy the checkpoint again, or take bfloat16"
            )
        if not error <= runner.tolerance * scale:
            raise EngineStartError(
                "the model does not give the same logits in a batch as alone; "
                "its attention is not of a kind that this engine can batch"
            )


def _is_int8(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "is_loaded_in_8bit", False))


def _text_inputs(token_ids: Sequence[int]) -> dict[str, torch.Tensor]:
    input_ids_1L = torch.tensor([list(token_ids)])
    return {"input_ids": input_ids_1L, "attention_mask": torch.ones_like(input_ids_1L)}
