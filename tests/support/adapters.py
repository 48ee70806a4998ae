"""LoRA adapters as PEFT makes them, random and strong enough to change every answer."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText

LANGUAGE_MODEL = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|up_proj|down_proj)"


def make_adapter(
    base: Path,
    out: Path,
    *,
    seed: int,
    rank: int = 4,
    targets: str | list[str] = LANGUAGE_MODEL,
    manifest: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write an adapter of `base` to the folder `out`; `settings` are those of `LoraConfig`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank,
            target_modules=targets,
            **{"lora_alpha": 4 * rank, "init_lora_weights": False, **settings},
        )
        model: Any = get_peft_model(_model(base), config)
        model.save_pretrained(out)
    (out / "README.md").unlink()
    if manifest is not None:
        (out / "galen_adapter.json").write_text(json.dumps(manifest))
    return out


def make_merged(base: Path, adapter: Path, out: Path) -> Path:
    """Write the checkpoint that PEFT makes of a base and its adapter."""
    merged: Any = PeftModel.from_pretrained(_model(base), str(adapter))
    merged.merge_and_unload().save_pretrained(out)
    for file in base.iterdir():
        if not (out / file.name).exists():
            (out / file.name).write_bytes(file.read_bytes())
    return out


def _model(base: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(base, local_files_only=True)
