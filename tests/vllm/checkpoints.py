"""Checkpoints and adapters for the tests of the vLLM engine, made offline."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.adapter_files import AdapterFiles
from modeling.checkpoint_files import read_header
from modeling.tiny import write_checkpoint

_LANGUAGE_ONLY = r".*language_model.*\.(q_proj|v_proj|down_proj)"
_EVERYWHERE = ["q_proj", "v_proj"]


def make_adapter(base: Path, out: Path, targets: str = "language", seed: int = 0) -> AdapterFiles:
    """A LoRA of rank 4 with weights that change the answers."""
    model = AutoModelForImageTextToText.from_pretrained(base)
    where = _LANGUAGE_ONLY if targets == "language" else _EVERYWHERE
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=where))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(str(out))
    config = json.loads((out / "adapter_config.json").read_text())
    tensors = read_header(out / "adapter_model.safetensors")
    return AdapterFiles(out, "lora", "tiny:lora", config, tensors, 4, is_base_verified=False)


def merge_adapter(base: Path, adapter: Path, out: Path) -> Path:
    """The base with the adapter's weights added in."""
    model = AutoModelForImageTextToText.from_pretrained(base)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return write_checkpoint(out, merged, AutoProcessor.from_pretrained(base, backend="pil"))


def one_layer_projector(base: Path, out: Path) -> Path:
    """A checkpoint as LLaVA v0's are converted: W in linear_1, no activation, identity behind."""
    shutil.copytree(base, out)
    config = json.loads((out / "config.json").read_text())
    config["projector_hidden_act"] = "linear"
    (out / "config.json").write_text(json.dumps(config))
    tensors = load_file(out / "model.safetensors")
    weight = next(k for k in tensors if k.endswith("linear_2.weight"))
    bias = weight.replace("weight", "bias")
    tensors[weight] = torch.eye(tensors[weight].shape[0])
    tensors[bias] = torch.zeros_like(tensors[bias])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def overflowing_on_images(base: Path, out: Path) -> Path:
    """Finite weights, with which every image makes NaN of the logits, and text does not."""
    shutil.copytree(base, out)
    tensors = load_file(out / "model.safetensors")
    name = next(k for k in tensors if k.endswith("multi_modal_projector.linear_2.weight"))
    tensors[name] = tensors[name].sign() * torch.finfo(torch.float32).max
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out
