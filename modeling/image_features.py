"""A LLaVA's image features for images of several sizes, in serving and in training.

What does *not* live here: images of one size, which the model encodes by itself.
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
    features: list[torch.Tensor] = []
    for image_1CHW in images:
        features += model.get_image_features(
            pixel_values=image_1CHW, interpolate_pos_encoding=True
        ).pooler_output
    return BaseModelOutputWithPooling(pooler_output=features)  # type: ignore[arg-type]  # LLaVA's is a list
