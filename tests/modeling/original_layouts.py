"""Small random checkpoints in the layouts that LLaMA, CLIP, BiomedCLIP and LLaVA-Med had.

Names, files, wrong ids and all, as the specification of LLaVA-Med v1.0 and v1.5 describes them. The
tokenizer is a real SentencePiece model, trained here on a few lines: LLaMA's is not at hand.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer

Tensors = dict[str, torch.Tensor]

LINES = (
    "### Human: What does this image show?",
    "### Assistant: The image shows a small lesion of the left lung.",
    "A curious user talks with an artificial intelligence assistant, who answers helpfully.",
    "USER: Is the heart enlarged? ASSISTANT: No, it is not. [INST] Which organ? [/INST] Liver.",
    "You are a careful biomedical assistant. Human: Hello! Describe the picture in detail.",
)
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
VOCAB = 420
ADDED = ("[PAD]", "<im_patch>", "<im_start>", "<im_end>")


_CONTROL_AND_BYTES = slice(0, 3 + 256)


@dataclass(frozen=True)
class Sizes:
    """Of the decoder and the tower."""

    hidden: int = 128  # 32 per head: the least that vLLM runs on a CPU
    mlp: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    context: int = 2048
    tower_hidden: int = 64
    tower_mlp: int = 128
    tower_layers: int = 3
    tower_heads: int = 1
    image_px: int = 56
    patch_px: int = 14

    @property
    def patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2


SIZES = Sizes()
MISTRAL_SIZES = Sizes(kv_heads=2, context=4096)
VIT_SIZES = Sizes(image_px=64, patch_px=16, tower_layers=4)


def write_sentencepiece(folder: Path) -> None:
    """Write tokenizer.model as LLaMA's is: BPE, dummy prefix, byte fallback, no normalisation."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3), model_writer=model, vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def clip_tensors(sizes: Sizes, seed: int, prefix: str = "vision_model.") -> Tensors:
    """CLIP's vision part, as openai/clip-vit-large-patch14 names it."""
    draw = _Draw(seed)
    width, mlp = sizes.tower_hidden, sizes.tower_mlp
    tensors = {
        "embeddings.class_embedding": draw(width),
        "embeddings.position_ids": torch.arange(sizes.patches + 1)[None],
        "embeddings.patch_embedding.weight": draw(width, 3, sizes.patch_px, sizes.patch_px) * 0.3,
        "embeddings.position_embedding.weight": draw(sizes.patches + 1, width),
        **draw.norm("pre_layrnorm", width),
        **draw.norm("post_layernorm", width),
    }
    for i in range(sizes.tower_layers):
        layer = f"encoder.layers.{i}"
        for name in "qkv":
            tensors |= draw.linear(f"{layer}.self_attn.{name}_proj", width, width)
        tensors |= draw.linear(f"{layer}.self_attn.out_proj", width, width)
        tensors |= draw.norm(f"{layer}.layer_norm1", width)
        tensors |= draw.norm(f"{layer}.layer_norm2", width)
        tensors |= draw.linear(f"{layer}.mlp.fc1", mlp, width)
        tensors |= draw.linear(f"{layer}.mlp.fc2", width, mlp)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write_clip(folder: Path, sizes: Sizes = SIZES, seed: int = 7) -> Path:
    """A whole CLIP in one pickle: vision, text and projections."""
    folder.mkdir(parents=True)
    tensors = clip_tensors(sizes, seed)
    tensors["text_model.embeddings.token_embedding.weight"] = torch.ones(3, 2)
    tensors["logit_scale"] = torch.tensor(4.6)
    torch.save(tensors, folder / "pytorch_model.bin")
    config = {
        "model_type": "clip",
        "vision_config": {
            "hidden_size": sizes.tower_hidden,
            "num_attention_heads": sizes.tower_heads,
            "image_size": sizes.image_px,
            "patch_size": sizes.patch_px,
        },
    }
    _write_json(folder / "config.json", config)
    return folder


def write_biomedclip(folder: Path, sizes: Sizes = VIT_SIZES, seed: int = 9) -> Path:
    """BiomedCLIP as open_clip has it: timm's trunk, and a text tower that nobody asks for."""
    folder.mkdir(parents=True)
    torch.save(vit_tensors(sizes, seed), folder / "open_clip_pytorch_model.bin")
    _write_json(folder / "open_clip_config.json", {"model_cfg": {"embed_dim": 512}})
    return folder


def vit_tensors(sizes: Sizes, seed: int) -> Tensors:
    draw = _Draw(seed)
    width, trunk = sizes.tower_hidden, "visual.trunk"
    tensors = {
        f"{trunk}.cls_token": draw(1, 1, width),
        f"{trunk}.pos_embed": draw(1, sizes.patches + 1, width),
        f"{trunk}.patch_embed.proj.weight": draw(width, 3, sizes.patch_px, sizes.patch_px) * 0.3,
        f"{trunk}.patch_embed.proj.bias": draw(width),
        **draw.norm(f"{trunk}.norm", width),
        "visual.head.proj.weight": draw(8, width),
        "text.transformer.embeddings.word_embeddings.weight": draw(5, 4),
    }
    for i in range(sizes.tower_layers):
        block = f"{trunk}.blocks.{i}"
        tensors |= draw.norm(f"{block}.norm1", width) | draw.norm(f"{block}.norm2", width)
        tensors |= draw.linear(f"{block}.attn.qkv", 3 * width, width)
        tensors |= draw.linear(f"{block}.attn.proj", width, width)
        tensors |= draw.linear(f"{block}.mlp.fc1", sizes.tower_mlp, width)
        tensors |= draw.linear(f"{block}.mlp.fc2", width, sizes.tower_mlp)
    return tensors


def decoder_tensors(sizes: Sizes, rows: int, seed: int) -> Tensors:
    """LLaMA's or Mistral's, as transformers 4 named them."""
    draw = _Draw(seed)
    hidden = sizes.hidden
    values = hidden // sizes.heads * sizes.kv_heads
    tensors: Tensors = {"model.embed_tokens.weight": draw(rows, hidden)}
    for i in range(sizes.layers):
        layer = f"model.layers.{i}"
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (values, hidden),
            "self_attn.v_proj": (values, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (sizes.mlp, hidden),
            "mlp.up_proj": (sizes.mlp, hidden),
            "mlp.down_proj": (hidden, sizes.mlp),
        }
        tensors |= {f"{layer}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
        tensors[f"{layer}.input_layernorm.weight"] = 1 + draw(hidden) * 0.3
        tensors[f"{layer}.post_attention_layernorm.weight"] = 1 + draw(hidden) * 0.3
    tensors["model.norm.weight"] = 1 + draw(hidden) * 0.3
    tensors["lm_head.weight"] = draw(rows, hidden)
    # never the likeliest: pieces of characters would make answers that are no text
    tensors["lm_head.weight"][_CONTROL_AND_BYTES] = 0
    return tensors


def write_llama(folder: Path, sizes: Sizes = SIZES, dtype: torch.dtype = torch.float16) -> Path:
    """The base of v1.0's delta: LLaMA-1 in Hugging Face layout, two pickled shards."""
    folder.mkdir(parents=True)
    tensors = decoder_tensors(sizes, VOCAB, seed=1)
    tensors |= _inverse_frequencies(sizes)
    _write_pickles(folder, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    _write_json(folder / "config.json", {**_llama_config(sizes, VOCAB), "model_type": "llama"})
    write_sentencepiece(folder)
    return folder


def v1_tensors(sizes: Sizes = SIZES, seed: int = 2) -> Tensors:
    """A merged v1.0: LLaMA with four more rows, and the one-layer projector."""
    draw = _Draw(seed + 100)
    tensors = decoder_tensors(sizes, VOCAB + len(ADDED), seed)
    tensors["model.mm_projector.weight"] = draw(sizes.hidden, sizes.tower_hidden)
    tensors["model.mm_projector.bias"] = draw(sizes.hidden)
    return tensors


def write_v1(
    folder: Path,
    sizes: Sizes = SIZES,
    tensors: Tensors | None = None,
    dtype: torch.dtype = torch.float32,
    **config: object,
) -> Path:
    """v1.0 as published, but small: two pickled shards, config.json with ids of no tokenizer."""
    folder.mkdir(parents=True)
    tensors = v1_tensors(sizes) if tensors is None else tensors
    tensors = {**tensors, **_inverse_frequencies(sizes)}
    _write_pickles(folder, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    _write_json(folder / "config.json", {**v1_config(sizes), **config})
    write_v1_tokenizer(folder)
    return folder


def v1_config(sizes: Sizes) -> dict[str, object]:
    return {
        **_llama_config(sizes, VOCAB + len(ADDED)),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "mm_vision_tower": f"openai/clip-vit-large-patch14-{sizes.image_px}",
        "mm_hidden_size": sizes.tower_hidden,
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": True,
        "use_mm_proj": True,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
    }


def write_v1_tokenizer(folder: Path) -> None:
    """BOS is `</s>` by special_tokens_map.json and `<s>` by tokenizer_config.json: the map wins."""
    write_sentencepiece(folder)
    added = {token: VOCAB + i for i, token in enumerate(ADDED)}
    _write_json(folder / "added_tokens.json", added)
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    entry = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": True}
    config = {"bos_token": entry, "model_max_length": 2048, "tokenizer_class": "LlamaTokenizer"}
    _write_json(folder / "tokenizer_config.json", config)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})


def v15_tensors(sizes: Sizes = MISTRAL_SIZES, seed: int = 3) -> Tensors:
    draw = _Draw(seed + 100)
    tower = clip_tensors(sizes, seed=8, prefix="model.vision_tower.vision_tower.vision_model.")
    return {
        **decoder_tensors(sizes, VOCAB, seed),
        **{n: t for n, t in tower.items() if not n.endswith("position_ids")},
        **draw.linear("model.mm_projector.0", sizes.hidden, sizes.tower_hidden),
        **draw.linear("model.mm_projector.2", sizes.hidden, sizes.hidden),
    }


def write_v15(
    folder: Path,
    sizes: Sizes = MISTRAL_SIZES,
    tensors: Tensors | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """v1.5 as published, but small: safetensors shards with a vision tower of their own."""
    folder.mkdir(parents=True)
    tensors = v15_tensors(sizes) if tensors is None else tensors
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    _write_safetensors(folder, tensors)
    config = {
        **_llama_config(sizes, VOCAB),
        "architectures": ["LlavaMistralForCausalLM"],
        "model_type": "llava_mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "image_aspect_ratio": "pad",
        "max_position_embeddings": sizes.context,
        "mm_hidden_size": sizes.tower_hidden,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"openai/clip-vit-large-patch14-{sizes.image_px}",
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "img_size": 640,
    }
    del config["max_sequence_length"], config["pad_token_id"]
    _write_json(folder / "config.json", config)
    write_sentencepiece(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    _write_json(folder / "special_tokens_map.json", special)
    return folder


class _Draw:
    """Random weights of a size at which logits are not flat."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * 0.085

    def linear(self, name: str, outputs: int, inputs: int) -> Tensors:
        return {f"{name}.weight": self(outputs, inputs), f"{name}.bias": self(outputs)}

    def norm(self, name: str, width: int) -> Tensors:
        return {f"{name}.weight": 1 + self(width), f"{name}.bias": self(width)}


def _llama_config(sizes: Sizes, rows: int) -> dict[str, object]:
    return {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": -1,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "max_sequence_length": sizes.context,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.28.0.dev0",
        "use_cache": False,
        "vocab_size": rows,
    }


def _inverse_frequencies(sizes: Sizes) -> Tensors:
    width = sizes.hidden // sizes.heads
    frequencies = 1e4 ** -(torch.arange(0, width, 2) / width)
    return {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": frequencies for i in range(sizes.layers)
    }


def _write_pickles(folder: Path, tensors: Tensors) -> None:
    names = list(tensors)
    half = len(names) // 2
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name].clone() for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    _write_index(folder / "pytorch_model.bin.index.json", tensors, weight_map)


def _write_safetensors(folder: Path, tensors: Tensors) -> None:
    names = list(tensors)
    half = len(names) // 2
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    _write_index(folder / "model.safetensors.index.json", tensors, weight_map)


def _write_index(file: Path, tensors: Tensors, weight_map: dict[str, str]) -> None:
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write_json(file, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
