"""Tiny random checkpoints of other families than LLaVA, made offline.

PaddleOCR-VL: Qwen2-VL's M-RoPE, images of any size, boundary tokens around an image; unlike
Qwen2-VL's own, its processor has no video part, which would need torchvision. Gemma 3: sliding and
full layers mixed, image tokens that see one another, token types. LLaVA-NeXT: several crops per
image.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import (
    PaddleOCRVLImageProcessorPil,
)

from modeling.tiny import (
    CHAT_TEMPLATE,
    TOKENIZER_TEXT,
    TinySizes,
    llava_config,
    spread_weights,
    train_tokenizer,
)

BOUNDARIES = ["<|IMAGE_START|>", "<|IMAGE_END|>"]
PADDLE_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}: "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>"
    "{% elif c['type'] == 'text' %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def with_config(base: Path, out: Path, **more: Any) -> Path:
    """The same checkpoint, with more keys in its config.json."""
    shutil.copytree(base, out)
    file = out / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    return out


def make_tiny_paddleocr_vl(out: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer({"image_token": "<|IMAGE_PLACEHOLDER|>"}, more=BOUNDARIES)
    token_id: Any = tokenizer.convert_tokens_to_ids
    torch.manual_seed(seed)
    config = PaddleOCRVLConfig(
        text_config={
            **_text_sizes(len(tokenizer)),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=token_id("<|IMAGE_PLACEHOLDER|>"),
        video_token_id=len(tokenizer) + 1,
        vision_start_token_id=token_id(BOUNDARIES[0]),
        vision_end_token_id=token_id(BOUNDARIES[1]),
        tie_word_embeddings=False,
    )
    model = PaddleOCRVLForConditionalGeneration(config)
    processor = PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessorPil(
            size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
        ),
        tokenizer=tokenizer,
        chat_template=PADDLE_TEMPLATE,
    )
    return _save(out, model, processor)


def make_tiny_gemma3(out: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer(
        {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        more=["<start_of_turn>", "<end_of_turn>"],
    )
    token_id: Any = tokenizer.convert_tokens_to_ids
    torch.manual_seed(seed)
    config = Gemma3Config(
        text_config={
            **_text_sizes(len(tokenizer)),
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        image_token_index=token_id("<image_soft_token>"),
        boi_token_index=token_id("<start_of_image>"),
        eoi_token_index=token_id("<end_of_image>"),
    )
    model = Gemma3ForConditionalGeneration(config)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    )
    return _save(out, model, processor)


def make_tiny_llava_next(out: Path, seed: int = 0) -> Path:
    tokenizer = train_tokenizer(TOKENIZER_TEXT, vocab_size=512)
    torch.manual_seed(seed)
    llava = llava_config(TinySizes(), vocab_size=len(tokenizer), image_px=56, patch_px=14)
    grids = [[56, 112], [112, 56], [112, 112]]
    config = LlavaNextConfig(
        vision_config=llava.vision_config,
        text_config=llava.text_config,
        image_token_index=llava.image_token_index,
        image_grid_pinpoints=grids,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=grids,
        ),
        tokenizer=tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
    )
    return _save(out, LlavaNextForConditionalGeneration(config), processor)


def _tokenizer(named: dict[str, str], more: list[str]) -> PreTrainedTokenizerFast:
    backend = train_tokenizer(TOKENIZER_TEXT, vocab_size=512).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )
    tokenizer.add_tokens(more, special_tokens=True)
    return tokenizer


def _text_sizes(vocab_size: int) -> dict[str, int]:
    return {
        "vocab_size": -(-vocab_size // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _save(out: Path, model: Any, processor: Any) -> Path:
    spread_weights(model, 0.15)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)
    return out
