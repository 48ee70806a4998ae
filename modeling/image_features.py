"""A LLaVA's image features, image by image, in serving and in training.

What does *not* live here: images of one size in training, which the model encodes by itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


def encode_each(model: Any, images: Sequence[torch.Tensor]) -> BaseModelOutputWithPooling:
    """Return features for the argument `mm_encoder_outputs={"image": ...}` of a LLaVA's forward.

    The tower's positions are interpolated to each size (transformers' CLIPVisionEmbeddings).

    Args:
        model: LlavaForConditionalGeneration.
        images: float [1, 3, H, W] on the model's device, in the order of their places.
    """
    return as_encoder_outputs([encode_one(model, image, is_any_size=True) for image in images])


def encode_one(model: Any, image_1CHW: torch.Tensor, *, is_any_size: bool) -> torch.Tensor:
    """Return the features [P, D] of one image, P patches, D the width of the language model.

    Args:
        is_any_size: whether its size may be another than the tower's own.
    """
    options = {"interpolate_pos_encoding": True} if is_any_size else {}
    (features_PD,) = model.get_image_features(pixel_values=image_1CHW, **options).pooler_output
    return features_PD


def as_encoder_outputs(features: Sequence[torch.Tensor]) -> BaseModelOutputWithPooling:
    """Return features [P, D] of a request's images as a LLaVA's forward takes them."""
    return BaseModelOutputWithPooling(pooler_output=list(features))  # type: ignore[arg-type]  # LLaVA's is a list
