"""Random LLaVA checkpoints of real sizes, made where they are needed.

The weights mean nothing; sizes, and so the time that a token takes, are those of real models. What
does *not* live here: the checkpoint of the tests (`modeling.tiny`), whose parts are used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from modeling.tiny import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    TOKENIZER_TEXT,
    llava_of,
    llava_processor,
    spread_weights,
    train_tokenizer,
    write_checkpoint,
)

INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Widths and depths of a LLaVA-1.5-style model."""

    vision_width: int
    vision_layers: int
    vision_heads: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    image_px: int
    dtype: torch.dtype


SIZES = {
    # A trial of the benchmark itself.
    "tiny": ModelSize(64, 3, 4, 128, 256, 2, 4, 2, 512, 2048, 56, torch.float32),
    # A tower that outweighs its language model: ViT-S/14 (arXiv:2010.11929) before a tiny one.
    "seeing": ModelSize(384, 12, 6, 256, 512, 4, 4, 4, 512, 2048, 224, torch.float32),
    # 0.13 billion parameters: what two CPU cores can run at some speed.
    "100m": ModelSize(384, 6, 6, 768, 2048, 12, 12, 12, 16_000, 2048, 112, torch.float32),
    # LLaVA-1.5-7B (arXiv:2310.03744): Llama 2 7B, CLIP ViT-L/14-336, a projector of two layers.
    "7b": ModelSize(1024, 24, 16, 4096, 11_008, 32, 32, 32, 32_064, 4096, 336, torch.bfloat16),
}


def checkpoint_of(size_name: str, home: Path, device: str) -> Path:
    """Return the checkpoint of this size below `home`; it is made on `device` if it is missing."""
    path = home / f"random-llava-{size_name}"
    if path.exists():
        return path
    size = SIZES[size_name]
    tokenizer = train_tokenizer(TOKENIZER_TEXT, vocab_size=512)
    model = _in_dtype(size.dtype, lambda: _build(size, device))
    processor = llava_processor(tokenizer, image_px=size.image_px, patch_px=14)
    return write_checkpoint(path, model, processor)


def _in_dtype(
    dtype: torch.dtype, build: Callable[[], LlavaForConditionalGeneration]
) -> LlavaForConditionalGeneration:
    """Build in the final type: 7 billion float32 values would need 28 GB first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build()
    finally:
        torch.set_default_dtype(before)


def _build(size: ModelSize, device: str) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration(_config(size))
        spread_weights(model, INIT_STD)
    return model.to("cpu")  # type: ignore[call-arg]  # decorated: the checker loses `self`


def _config(size: ModelSize) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=size.image_px,
        patch_size=14,
        projection_dim=size.vision_width,
        hidden_act="quick_gelu",
    )
    text = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.mlp_width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.context,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
    )
    return llava_of(vision, text, (size.image_px // 14) ** 2)
