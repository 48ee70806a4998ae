"""The miniature before it has learnt anything: 1.9 million random weights and a tokenizer.

The architecture is LLaVA-1.5's (arXiv:2310.03744) with a CLIP tower and a LLaMA, all of it small:
64 x 64 px in patches of 8. What does *not* live here: training it (`curriculum.py`).
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration

from modeling.tiny import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    llava_of,
    llava_processor,
    train_tokenizer,
    write_checkpoint,
)

IMAGE_PX = 64
PATCH_PX = 8
WIDTH = 128
HEADS = 4
VOCABULARY = 640
# Of normal draws: matrices of the language model, its embeddings, its output; found by trial.
_STD, _EMBEDDING_STD, _HEAD_STD = 0.07, 0.1, 0.05


def make_blank(out: Path, texts: Iterable[str], seed: int) -> Path:
    """Write the blank checkpoint.

    Args:
        texts: the tokenizer learns its words from them.

    Raises:
        FileExistsError: `out` is there already.
    """
    tokenizer = train_tokenizer(list(texts), VOCABULARY)
    processor = llava_processor(tokenizer, image_px=IMAGE_PX, patch_px=PATCH_PX)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=WIDTH,
        hidden_act="gelu",  # one operation; CLIP's own quick_gelu takes a third longer here
    )
    text = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(llava_of(vision, text, (IMAGE_PX // PATCH_PX) ** 2))
        _spread_weights(model)
        _place_patches(model)
    return write_checkpoint(out, model, processor)


def _spread_weights(model: LlavaForConditionalGeneration) -> None:
    """Draw the language model and the projector wider than 0.02, which suits wide models only."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "vision_tower" in name:
                continue
            std = _EMBEDDING_STD if "embed_tokens" in name else _STD
            parameter.normal_(0.0, _HEAD_STD if "lm_head" in name else std)


def _place_patches(model: LlavaForConditionalGeneration) -> None:
    """Set the tower's position embedding to 2-D sines and cosines of amplitude 0.3.

    CLIP's own initial positions are drowned by the patches, and a tower so short of data then never
    learns where something is. The scheme: arXiv:2010.11929, appendix D.4.
    """
    positions: torch.nn.Embedding = model.get_submodule("model.vision_tower").get_submodule(
        "embeddings.position_embedding"
    )  # type: ignore[assignment]
    num_positions, width = positions.weight.shape
    side = math.isqrt(num_positions - 1)  # one is the class token's
    frequencies = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles_SF = torch.arange(side)[:, None] * frequencies
    one_axis_SW = torch.cat([angles_SF.sin(), angles_SF.cos()], dim=1)
    rows_PW = one_axis_SW.repeat_interleave(side, dim=0)
    columns_PW = one_axis_SW.repeat(side, 1)
    with torch.no_grad():
        positions.weight[1:] = 0.3 * torch.cat([rows_PW, columns_PW], dim=1)
