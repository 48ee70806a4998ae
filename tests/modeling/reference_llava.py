"""LLaVA-Med's forward pass in plain torch, written from its description: original tensor names.

Shares nothing with `modeling/` or transformers: converted checkpoints are compared with it. One
sequence at a time, float32, no cache.

Sources: LLaMA arXiv:2302.13971 with RoFormer arXiv:2104.09864, Mistral arXiv:2310.06825, CLIP
arXiv:2103.00020, ViT arXiv:2010.11929, LLaVA-Med arXiv:2306.00890.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

Tensors = dict[str, torch.Tensor]


def clip_features(
    tensors: Tensors, prefix: str, pixels: torch.Tensor, heads: int, layer: int = -2
) -> torch.Tensor:
    """Return patch features [P, D] of one image [3, H, W]."""
    w = {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}
    kernel = w["embeddings.patch_embedding.weight"]
    patches = functional.conv2d(pixels[None], kernel, stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([w["embeddings.class_embedding"][None], patches])
    x = x + w["embeddings.position_embedding.weight"]
    x = layer_norm(x, w, "pre_layrnorm", 1e-5)
    states = [x]
    num_layers = sum(name.endswith("mlp.fc1.bias") for name in w)
    for i in range(num_layers):
        p = f"encoder.layers.{i}"
        y = layer_norm(x, w, f"{p}.layer_norm1", 1e-5)
        q, k, v = (linear(y, w, f"{p}.self_attn.{name}_proj") for name in "qkv")
        x = x + linear(attend(q, k, v, heads), w, f"{p}.self_attn.out_proj")
        y = linear(layer_norm(x, w, f"{p}.layer_norm2", 1e-5), w, f"{p}.mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), w, f"{p}.mlp.fc2")
        states.append(x)
    return states[layer][1:]


def vit_features(tensors: Tensors, pixels: torch.Tensor, heads: int) -> torch.Tensor:
    """Return what LLaVA-Med takes of BiomedCLIP: the middle of the last three blocks, [P, D]."""
    prefix = "visual.trunk."
    w = {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}
    kernel = w["patch_embed.proj.weight"]
    patches = functional.conv2d(pixels[None], kernel, w["patch_embed.proj.bias"], kernel.shape[-1])
    x = torch.cat([w["cls_token"][0], patches[0].flatten(1).T]) + w["pos_embed"][0]
    outputs = []
    for i in range(sum(name.endswith("mlp.fc1.bias") for name in w)):
        p = f"blocks.{i}"
        q, k, v = linear(layer_norm(x, w, f"{p}.norm1", 1e-6), w, f"{p}.attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, heads), w, f"{p}.attn.proj")
        y = linear(layer_norm(x, w, f"{p}.norm2", 1e-6), w, f"{p}.mlp.fc1")
        x = x + linear(functional.gelu(y), w, f"{p}.mlp.fc2")
        outputs.append(x)
    return outputs[-3:][-2][1:]


def project(tensors: Tensors, features: torch.Tensor) -> torch.Tensor:
    """Return image features in the decoder's width: one layer in v1.0, two with GELU in v1.5."""
    if "model.mm_projector.weight" in tensors:
        return linear(features, tensors, "model.mm_projector")
    hidden = functional.gelu(linear(features, tensors, "model.mm_projector.0"))
    return linear(hidden, tensors, "model.mm_projector.2")


def embed(
    tensors: Tensors, token_ids: Sequence[int], images: Sequence[torch.Tensor], patch_id: int
) -> torch.Tensor:
    """Return embeddings [L, H]; runs of the placeholder are replaced by the images in order."""
    at = [i for i, token_id in enumerate(token_ids) if token_id == patch_id]
    known = [0 if token_id == patch_id else token_id for token_id in token_ids]
    x = tensors["model.embed_tokens.weight"].float()[known]
    if at:
        x[at] = torch.cat(list(images))
    return x


def decoder_logits(
    tensors: Tensors, x: torch.Tensor, heads: int, kv_heads: int, eps: float, theta: float
) -> torch.Tensor:
    """Return logits [L, V] of embeddings [L, H]."""
    w = {name: tensor.float() for name, tensor in tensors.items()}
    for i in range(sum(name.endswith("input_layernorm.weight") for name in w)):
        p = f"model.layers.{i}"
        y = rms_norm(x, w[f"{p}.input_layernorm.weight"], eps)
        q, k, v = (y @ w[f"{p}.self_attn.{name}_proj.weight"].T for name in "qkv")
        q, k = rotate(q, heads, theta), rotate(k, kv_heads, theta)
        k, v = repeat(k, kv_heads, heads), repeat(v, kv_heads, heads)
        x = x + attend(q, k, v, heads, causal=True) @ w[f"{p}.self_attn.o_proj.weight"].T
        y = rms_norm(x, w[f"{p}.post_attention_layernorm.weight"], eps)
        gate = functional.silu(y @ w[f"{p}.mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ w[f"{p}.mlp.up_proj.weight"].T)) @ w[f"{p}.mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def linear(x: torch.Tensor, w: Tensors, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].float().T + w[f"{name}.bias"].float()


def layer_norm(x: torch.Tensor, w: Tensors, name: str, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *, causal: bool = False
) -> torch.Tensor:
    length, width = q.shape[0], q.shape[1] // heads
    q, k, v = (t.reshape(length, heads, width).transpose(0, 1) for t in (q, k, v))
    scores = q @ k.transpose(1, 2) / width**0.5
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, heads * width)


def rotate(x: torch.Tensor, heads: int, theta: float) -> torch.Tensor:
    """Rotary positions; a head's halves are the two coordinates (LLaMA in Hugging Face layout)."""
    length, width = x.shape[0], x.shape[1] // heads
    frequencies = theta ** -(torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.reshape(length, heads, width).chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.reshape(length, heads * width)


def repeat(x: torch.Tensor, kv_heads: int, heads: int) -> torch.Tensor:
    length, width = x.shape[0], x.shape[1] // kv_heads
    x = x.reshape(length, kv_heads, width)
    return x.repeat_interleave(heads // kv_heads, 1).reshape(length, heads * width)
