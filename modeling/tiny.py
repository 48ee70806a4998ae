"""A tiny, random LLaVA checkpoint in Hugging Face layout, made offline in seconds.

Lives here: sizes, tokenizer training, chat template, key names. For tests, CI and trying the
platform out without a download. What does *not* live here: weights that mean something (`demo.py`).

Run: python -m modeling.tiny OUT [--image 56] [--dtype float32] [--seed 0] [--force]
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
PAD_ID, BOS_ID, EOS_ID, IMAGE_ID = range(4)
CONTEXT_LENGTH = 2048
PATCH_PX = 14

TOKENIZER_TEXT = (
    "USER: What does this image show? ASSISTANT: The image shows a small bright lesion.",
    "USER: Is there an effusion on the left side? ASSISTANT: No, the left lung is clear.",
    "USER: Which organ is this? ASSISTANT: This is the liver, seen in an axial CT slice.",
    "Describe the picture in detail and say on which side the finding lies.",
    "The heart is not enlarged; the ribs, the spine and the soft tissue are without findings.",
    "You are a careful assistant for medical images. Answer in one short sentence.",
    '{"finding": "none", "side": "right", "confidence": 0.5, "list": [1, 2, 3], "ok": true}',
)

# The conversation format of LLaVA-1.5 (arXiv:2310.03744), with parts where the caller put them.
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}{{ '<image>\\n' }}
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ render(message['content']) + ' ' }}
{%- elif message['role'] == 'user' -%}{{ 'USER: ' + render(message['content']) + ' ' }}
{%- elif message['role'] == 'assistant' -%}
{{ 'ASSISTANT: ' + render(message['content']) + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""


@dataclass(frozen=True, slots=True)
class TinySizes:
    """Widths and depths; heads and widths are even, so that the model can be split in two.

    Args:
        init_std: of every matrix; the usual 0.02 gives logits so flat that rounding decides.
    """

    vision_width: int = 64
    vision_layers: int = 3
    text_width: int = 128
    text_layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    init_std: float = 0.15


def make_tiny_llava(
    out: Path,
    *,
    image_px: int = 56,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    sizes: TinySizes | None = None,
) -> Path:
    """Write a random LLaVA checkpoint to `out`, all of it or nothing.

    Args:
        out: directory to create; must not exist yet.
        image_px: side of the square input, a multiple of 14.

    Returns:
        `out`.

    Raises:
        FileExistsError: `out` is there already.
        ValueError: `image_px` is no multiple of 14.
    """
    if image_px <= 0 or image_px % PATCH_PX:
        raise ValueError(f"image side {image_px} px: take a multiple of {PATCH_PX}")
    sizes = sizes or TinySizes()
    tokenizer = train_tokenizer(TOKENIZER_TEXT, vocab_size=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(
            llava_config(sizes, vocab_size=len(tokenizer), image_px=image_px, patch_px=PATCH_PX)
        )
        spread_weights(model, sizes.init_std)
    processor = llava_processor(tokenizer, image_px=image_px, patch_px=PATCH_PX)
    model.to(dtype=dtype)  # type: ignore[call-arg]  # decorated: the checker loses `self`
    return write_checkpoint(out, model, processor)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer; the special tokens have the ids 0 to 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        list(texts) * 4,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=False)),
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=CONTEXT_LENGTH,
    )


def llava_config(sizes: TinySizes, vocab_size: int, image_px: int, patch_px: int) -> LlavaConfig:
    """Return the configuration of a LLaVA-1.5-style model (arXiv:2310.03744) of these sizes."""
    vision = CLIPVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=2 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.heads,
        image_size=image_px,
        patch_size=patch_px,
        projection_dim=sizes.vision_width,
        hidden_act="quick_gelu",
    )
    text = LlamaConfig(
        vocab_size=-(-vocab_size // 64) * 64,
        hidden_size=sizes.text_width,
        intermediate_size=2 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
    )
    return llava_of(vision, text, (image_px // patch_px) ** 2)


def llava_of(vision: CLIPVisionConfig, text: LlamaConfig, num_patches: int) -> LlavaConfig:
    """Return how LLaVA-1.5 puts a tower of `num_patches` and a language model together."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=num_patches,
        tie_word_embeddings=False,
    )


def llava_processor(
    tokenizer: PreTrainedTokenizerFast, image_px: int, patch_px: int
) -> LlavaProcessor:
    """Return CLIP's preprocessing in PIL, joined with the tokenizer and the chat template."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_px}, crop_size={"height": image_px, "width": image_px}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_px,
        # CLIP's class token is the one additional token; "default" takes it away again.
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
    )


def spread_weights(model: torch.nn.Module, std: float) -> None:
    """Redraw every matrix with `std` and every bias with 0.02; norms stay as they are."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, std)
            elif "bias" in name:
                parameter.normal_(0.0, 0.02)


def write_checkpoint(
    out: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor
) -> Path:
    """Save model and processor to `out` under the published key names, all or nothing.

    Raises:
        FileExistsError: `out` is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or choose another directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.eval()
        model.generation_config = GenerationConfig(
            bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID
        )
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        _use_published_names(partial / "model.safetensors")
        for path in partial.iterdir():
            path.chmod(0o644)
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _use_published_names(weights: Path) -> None:
    """Rename the vision tower's keys as published LLaVA checkpoints have them.

    transformers 5 saves `vision_tower.embeddings…`; published ones, and vLLM, say
    `vision_tower.vision_model.embeddings…`. transformers reads both.
    """
    tower, published = "vision_tower.", "vision_tower.vision_model."
    tensors = {
        published + key.removeprefix(tower)
        if key.startswith(tower) and not key.startswith(published)
        else key: tensor
        for key, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})


def main(argv: Sequence[str] | None = None) -> None:
    """Write a checkpoint and print one line of JSON about it."""
    parser = argparse.ArgumentParser(description="Make a tiny random LLaVA checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--image", type=int, default=56, help="input side, pixels (multiple of 14)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    options = parser.parse_args(argv)
    if options.force and options.out.exists():
        shutil.rmtree(options.out)
    make_tiny_llava(
        options.out,
        image_px=options.image,
        dtype=getattr(torch, options.dtype),
        seed=options.seed,
    )
    num_bytes = sum(path.stat().st_size for path in options.out.iterdir())
    print(json.dumps({"checkpoint": str(options.out), "bytes": num_bytes}))  # noqa: T201 (entry point)


if __name__ == "__main__":
    main()
