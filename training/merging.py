"""A LoRA adapter added to its base, tensor by tensor: `galen train merge-lora`.

What does *not* live here: which adapters fit which base (`modeling/adapter_files.py`), and the
arithmetic and the writing (`finished.py`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modeling.adapter_files import (
    TRAINED_BESIDE_FILE,
    WEIGHTS_FILE,
    AdapterError,
    AdapterFiles,
    module_key,
    open_adapter,
    rank_and_alpha,
)
from modeling.checkpoint_files import (
    CheckpointError,
    CheckpointFiles,
    open_checkpoint,
    read_header,
    sampled_fingerprint,
)
from modeling.checkpoints.output_folder import refuse_existing, tool
from training.finished import (
    EMBEDDING,
    NEW_ROW_IDS,
    NEW_ROWS,
    Trained,
    own_name,
    write_finished,
)

_SERVED_ADVICE = "merge it into its base and serve that"
_ADVICE = "merge it with PEFT (merge_and_unload)"
_ANY_RANK = 1 << 20
_PREFIX = "base_model.model."


def merge_lora(base: Path, adapter: Path, out: Path) -> None:
    """Write base + adapter to `out`, and what was trained beside the adapter.

    Raises:
        CheckpointError: one of them cannot be used, they do not fit, or `out` exists.
    """
    refuse_existing(out)
    files = open_checkpoint(base)
    try:
        found = open_adapter(
            adapter, files, base.name, _ANY_RANK, lambda: sampled_fingerprint(files), is_merged=True
        )
    except AdapterError as error:
        raise CheckpointError(str(error).replace(_SERVED_ADVICE, _ADVICE)) from error
    more, row_ids = _beside(adapter / TRAINED_BESIDE_FILE, files)
    trained = Trained({**_pairs(found, files), **more}, 1.0, row_ids)
    remedy = "base or adapter is damaged, or they do not belong together: copy them again"
    write_finished(base, trained, out, _facts(files, adapter), remedy=remedy)


def _pairs(adapter: AdapterFiles, base: CheckpointFiles) -> dict[str, torch.Tensor]:
    """Return A and B of each layer by the base's names, B scaled in float32."""
    own = {
        module_key(own_name(name).removesuffix(".weight")): own_name(name).removesuffix(".weight")
        for name in base.tensors
    }
    pairs: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(adapter.path / WEIGHTS_FILE).items():
        module, _, side = name.removeprefix(_PREFIX).rpartition(".lora_")
        scaled = tensor.float() * _scale(adapter.config, module) if side[0] == "B" else tensor
        pairs[f"{own[module_key(module)]}.lora_{side}"] = scaled
    return pairs


def _scale(config: Mapping[str, Any], module: str) -> float:
    """Return alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
    rank, alpha = rank_and_alpha(config, module)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _beside(
    file: Path, base: CheckpointFiles
) -> tuple[Mapping[str, torch.Tensor], tuple[int, ...]]:
    """Return what PEFT's format has no place for: the projector, and rows of the embedding."""
    if not file.is_file():
        return {}, ()
    shapes = {own_name(name): info.shape for name, info in base.tensors.items()}
    row_ids: tuple[int, ...] = ()
    found = read_header(file)
    if NEW_ROWS in found:
        row_ids = _row_ids(file)
        shapes[NEW_ROWS] = (len(row_ids), *shapes[EMBEDDING][1:])
    for name, info in found.items():
        if info.shape != shapes.get(name):
            raise CheckpointError(
                f"{file} holds {name!r} of {_in_words(info.shape)}, the base has "
                f"{_in_words(shapes.get(name))}: it is of another base"
            )
    return load_file(file), row_ids


def _row_ids(file: Path) -> tuple[int, ...]:
    with safe_open(file, framework="pt") as opened:
        said = (opened.metadata() or {}).get(NEW_ROW_IDS)
    if said is None:
        raise CheckpointError(
            f"{file} does not say which rows of the embedding it holds; copy it again from its run"
        )
    return tuple(json.loads(said))


def _in_words(shape: tuple[int, ...] | None) -> str:
    return "none of that name" if shape is None else " x ".join(map(str, shape))


def _facts(base: CheckpointFiles, adapter: Path) -> dict[str, Any]:
    with (adapter / WEIGHTS_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    merged = {
        "base": {"name": base.path.resolve().name, "fingerprint": sampled_fingerprint(base)},
        "adapter": {"name": adapter.resolve().name, "sha256": digest},
    }
    return {"merged": merged, "tool": tool()}
