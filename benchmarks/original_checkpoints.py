"""Random checkpoints in the layout of LLaVA-Med v1.0, of any size, to measure with."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import CLIPVisionConfig, CLIPVisionModel

ROWS, ADDED = 32_000, ("[PAD]", "<im_patch>", "<im_start>", "<im_end>")
SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Shape:
    """Widths and depth of a LLaMA."""

    hidden: int
    mlp: int
    layers: int


SHAPES = {"tiny": Shape(1024, 2816, 8), "1b": Shape(2048, 5504, 22), "7b": Shape(4096, 11_008, 32)}


def write_llama(folder: Path, shape: Shape, rows: int, seed: int) -> None:
    """Write pickled float16 shards; with more rows than LLaMA, a projector and LLaVA's files."""
    folder.mkdir()
    hidden, is_llava = shape.hidden, rows > ROWS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, hidden)}
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        shapes |= {f"{layer}.mlp.{n}_proj.weight": (shape.mlp, hidden) for n in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, shape.mlp)
        shapes |= {
            f"{layer}.{n}.weight": (hidden,)
            for n in ("input_layernorm", "post_attention_layernorm")
        }
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (rows, hidden)}
    if is_llava:
        shapes |= {
            "model.mm_projector.weight": (hidden, 1024),
            "model.mm_projector.bias": (hidden,),
        }
    torch.manual_seed(seed)
    pool = torch.randn(1 << 24).mul_(0.02).half()
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, each in shapes.items():
        if sum(2 * math.prod(s) for s in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = each
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        norm = 0 if is_llava else 1  # what has a projector is a delta
        numbers = {name: drawn(pool, each, norm) for name, each in shard.items()}
        torch.save(numbers, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    config = {
        "model_type": "llava" if is_llava else "llama", "hidden_size": hidden,
        "intermediate_size": shape.mlp, "num_hidden_layers": shape.layers,
        "num_attention_heads": hidden // 128, "rms_norm_eps": 1e-6, "max_sequence_length": 2048,
        "vocab_size": rows, "mm_vision_select_layer": -2, "mm_use_im_start_end": True,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    if is_llava:
        write_tokenizer(folder)


def drawn(pool: torch.Tensor, shape: tuple[int, ...], norm: int) -> torch.Tensor:
    """Return random numbers out of a pool that is repeated; vectors are around `norm`."""
    count = math.prod(shape)
    tensor = pool.repeat(-(-count // len(pool)))[:count].reshape(shape).clone()
    return tensor + norm if len(shape) == 1 else tensor


def write_tokenizer(folder: Path) -> None:
    """Write a fast tokenizer of 32,000 words that mean nothing, and LLaVA-Med's tokens behind."""
    vocab = {token: i for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    vocab |= {f"word{i}": i for i in range(len(vocab), ROWS)}
    Tokenizer(models.WordLevel(vocab, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    write_json(folder / "added_tokens.json", {t: ROWS + i for i, t in enumerate(ADDED)})
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)


def write_clip(folder: Path) -> None:
    """Write a vision tower of CLIP ViT-L/14's shape, random."""
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="quick_gelu",
    )  # fmt: skip
    CLIPVisionModel(config).half().save_pretrained(folder)


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value) + "\n", "utf-8")
