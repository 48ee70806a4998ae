"""The miniature before it has learnt anything: 1.9 million random weights and a tokenizer.

The architecture is LLaVA-1.5's (arXiv:2310.03744) with a CLIP tower and a LLaMA, all of it small:
64 x 64 px in patches of 8. What does *not* live here: training it (`curriculum.py`).
"""

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
    place_patches,
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
        place_patches(model)
    return write_checkpoint(out, model, processor)


def _spread_weights(model: LlavaForConditionalGeneration) -> None:
    """Draw the language model and the projector wider than 0.02, which suits wide models only."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "vision_tower" in name:
                continue
            std = _EMBEDDING_STD if "embed_tokens" in name else _STD
            parameter.normal_(0.0, _HEAD_STD if "lm_head" in name else std)
