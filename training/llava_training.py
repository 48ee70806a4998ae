"""A LLaVA as it is trained: its forward takes rows of examples and gives the sum of their losses.

Same modules, names and weights as Hugging Face's `LlavaForConditionalGeneration`. Two things save
most of what training would waste: logits are computed for trained tokens only (at 32,000 entries of
a vocabulary they are the largest tensor there is), and features of a frozen tower may come in
computed. What does *not* live here: which parameters are trained (`loading.py`).

Shapes: R rows, L tokens, N images, P patches, D width of the tower, H of the language model,
T trained tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from modeling.prompt import IGNORE_INDEX
from training.rows import attention_mask
from training.segment_attention import ATTENTION, Span


class LlavaForTraining(LlavaForConditionalGeneration):
    """See the module; made by `of` alone."""

    new_rows: nn.Parameter | None
    new_row_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, llava: LlavaForConditionalGeneration) -> "LlavaForTraining":
        """Return a loaded model as one that is trained; it is the same object.

        transformers 5 knows the published names of tensors for its own classes only
        (`conversion_mapping.get_model_conversion_mapping`), so a subclass would load without them.
        """
        llava.__class__ = cls
        assert isinstance(llava, cls)  # noqa: S101 (it is one now)
        llava.register_parameter("new_rows", None)
        language_model: Any = llava.model.language_model
        if language_model.config._attn_implementation == "sdpa":
            language_model.set_attn_implementation(ATTENTION)
        return llava

    def train_new_rows(self, token_ids: Sequence[int]) -> None:
        """Train these rows of the frozen input embedding; `restore_new_rows` writes them back.

        LLaVA-Med's stage 1 trains the rows of its two new tokens so (docs/llava-med.md).
        """
        table: torch.Tensor = self.get_input_embeddings().weight  # type: ignore[assignment]
        self.new_row_ids = tuple(token_ids)
        self.new_rows = nn.Parameter(table[list(token_ids)].detach().float().clone())

    def forward(  # type: ignore[override]  # it serves no generation
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        targets: torch.Tensor,
        segments: torch.Tensor | None = None,
        prefixes: torch.Tensor | None = None,
        spans: tuple[Span, ...] | None = None,
        pixel_values: torch.Tensor | None = None,
        tower_features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """Return the summed cross-entropy of all trained tokens, float32.

        Args:
            input_ids: long [R, L], and so the next four (`rows.Rows`).
            segments: None lets the attention kernel find the examples by their positions: one
                row, no padding (`rows.flattened`).
            spans: in place of `segments`: attention is computed for each of them alone.
            pixel_values: float [N, 3, height, width], in the order of their places.
            tower_features: float [N, P, D] in their stead: of the layer that the projector reads.
        """
        embeds_RLH = self._embed(input_ids)
        features_NPH = self._image_features(pixel_values, tower_features)
        places_RL1 = (input_ids == self.config.image_token_id)[..., None]
        if pixel_values is None and tower_features is None:
            # The projector takes part in each pass: its gradient is awaited on every card.
            embeds_RLH = embeds_RLH + features_NPH.sum().to(embeds_RLH.dtype) * 0
        else:
            features_NPH = features_NPH.to(embeds_RLH.dtype)
            embeds_RLH = embeds_RLH.masked_scatter(places_RL1, features_NPH)
        mask = None
        if spans is not None:  # without one transformers would make a mask that nobody looks at
            mask = embeds_RLH.new_empty((0, 1, 1, 1))
        elif segments is not None:
            assert prefixes is not None  # noqa: S101 (they come together)
            mask = attention_mask(segments, prefixes)
        hidden_RLH = self.model.language_model(
            inputs_embeds=embeds_RLH,
            position_ids=position_ids,
            attention_mask=mask,
            use_cache=False,
            **({} if spans is None else {"spans": spans}),
        ).last_hidden_state
        return (self._loss(hidden_RLH, targets),)

    def _embed(self, input_ids_RL: torch.Tensor) -> torch.Tensor:
        embeds_RLH = self.get_input_embeddings()(input_ids_RL)
        if self.new_rows is not None:
            for row_H, token_id in zip(self.new_rows, self.new_row_ids, strict=True):
                is_it_RL1 = (input_ids_RL == token_id)[..., None]
                embeds_RLH = torch.where(is_it_RL1, row_H.to(embeds_RLH.dtype), embeds_RLH)
        return embeds_RLH

    def _image_features(
        self, pixel_values: torch.Tensor | None, tower_features: torch.Tensor | None
    ) -> torch.Tensor:
        projector = self.model.multi_modal_projector
        if tower_features is None and pixel_values is not None:
            tower_features = tower_features_of(self, pixel_values)
        if tower_features is None:
            like = projector.linear_1.weight
            tower_features = torch.zeros(1, 1, projector.linear_1.in_features, device=like.device)
        return projector(tower_features.to(_dtype_under_autocast(projector.linear_1.weight)))

    def _loss(self, hidden_RLH: torch.Tensor, targets_RL: torch.Tensor) -> torch.Tensor:
        counted_RL = targets_RL != IGNORE_INDEX
        logits_TV = self.lm_head(hidden_RLH[counted_RL]).float()
        # of no tokens at all: 0, with a gradient of 0 for every parameter
        loss = functional.cross_entropy(logits_TV, targets_RL[counted_RL], reduction="sum")
        return loss + hidden_RLH.sum().float() * 0 if not bool(counted_RL.any()) else loss


def tower_features_of(llava: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return what the projector reads, [N, P, D]; without a gradient where the tower is frozen.

    Args:
        llava: LlavaForConditionalGeneration.
        pixel_values: float [N, 3, height, width].
    """
    tower, config = llava.model.vision_tower, llava.config
    is_trained = any(parameter.requires_grad for parameter in tower.parameters())
    pixels = pixel_values.to(next(tower.parameters()).dtype)
    layers = config.vision_feature_layer
    num_layers = config.vision_config.num_hidden_layers
    # hidden states: the embeddings, then one of each layer
    wanted = [n % (num_layers + 1) for n in ([layers] if isinstance(layers, int) else layers)]
    with (
        torch.set_grad_enabled(is_trained and torch.is_grad_enabled()),
        _layers_up_to(tower, max(wanted)),
    ):
        states = tower(pixels, output_hidden_states=True).hidden_states
        chosen = [states[layer] for layer in wanted]
        if config.vision_feature_select_strategy == "default":
            chosen = [features_NQD[:, 1:] for features_NQD in chosen]
        return torch.cat(chosen, dim=-1)


@contextlib.contextmanager
def _layers_up_to(tower: Any, num_layers: int) -> Iterator[None]:
    """Leave out the layers above those that are read; LLaVA reads the last but one."""
    encoder = getattr(tower, "encoder", None)
    layers = getattr(encoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or num_layers >= len(layers):
        yield
        return
    assert encoder is not None  # noqa: S101 (it has layers)
    encoder.layers = layers[:num_layers]
    try:
        yield
    finally:
        encoder.layers = layers


def _dtype_under_autocast(weight: torch.Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
