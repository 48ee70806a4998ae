"""The finished model: the base checkpoint with the trained tensors in it, ready to be served.

Written tensor by tensor from the base's own files, under published names, so that nothing but what
was trained differs and a base in 4 bits loses nothing. What does *not* live here: checkpoints of a
run (`run_state.py`).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from modeling.adapter_files import TRAINED_BESIDE_FILE
from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.hf_layout import published_name
from modeling.checkpoints.output_folder import (
    JOURNAL,
    Destination,
    Recipe,
    partial_of,
    refuse_existing,
    write_folder,
)
from modeling.checkpoints.progress_bar import ProgressBar
from modeling.checkpoints.tensor_source import DTYPES, TensorSource, open_tensors
from modeling.checkpoints.tensor_writer import Output
from training.config import TrainConfig
from training.loading import adapter_config, parameter_names

TRAINING_FILE = "galen_training.json"
"""Recipe, data, code and libraries that a checkpoint was made with, beside its weights."""
ADAPTER_FOLDER = "adapter"
EMBEDDING = "model.language_model.embed_tokens.weight"
NEW_ROWS = "new_rows"
"""Beside an adapter: what else was trained."""
NEW_ROW_IDS = "new_row_ids"
"""In that file's metadata: which rows of the embedding `new_rows` are."""
_OWN_NAMES = (  # published, transformers 5
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training changed; all tensors whole and on the CPU.

    Args:
        tensors: by transformers' name; those of LoRA end in `.lora_A.weight` and `.lora_B.weight`.
        lora_scale: alpha / rank.
        new_row_ids: which rows of the input embedding `new_rows` holds.
    """

    tensors: Mapping[str, torch.Tensor]
    lora_scale: float = 0.0
    new_row_ids: tuple[int, ...] = field(default=())

    def lora_of(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return A and B of a weight; None: it has none."""
        layer = name.removesuffix(".weight")
        a_RI = self.tensors.get(f"{layer}.lora_A.weight")
        b_OR = self.tensors.get(f"{layer}.lora_B.weight")
        return None if a_RI is None or b_OR is None else (a_RI, b_OR)


def gather_trained(model: Any, lora_scale: float, *, keeps: bool) -> Trained:
    """Return the trained tensors; with a model cut over several cards all must call it.

    Args:
        keeps: whether this card gets them; the others get none.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameter_names(model):
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if keeps:
            tensors[name.replace(".default.", ".")] = whole.detach().cpu()
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return Trained(tensors, lora_scale, tuple(getattr(plain, "new_row_ids", ())))


def refuse_taken(out: Path) -> None:
    """Raise CheckpointError where a finished model cannot be written once it is trained."""
    refuse_existing(out)
    partial = partial_of(out)
    if partial.exists() and not (partial / JOURNAL).is_file():
        raise CheckpointError(
            f"{partial} is in the way, and no training left it: move it, or take another "
            "output.folder"
        )


def write_result(
    config: TrainConfig, trained: Trained, out: Path, facts: Mapping[str, Any]
) -> None:
    """Write what a run of this recipe trained; as `write_finished`, which says what is raised."""
    dtype = getattr(torch, config.output.dtype) if config.output.dtype else None
    write_finished(
        config.model.path, trained, out, facts, dtype=dtype, adapter_config=adapter_config(config)
    )


def write_finished(  # noqa: PLR0913 - each is one part of what is written
    base: Path,
    trained: Trained,
    out: Path,
    facts: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    adapter_config: Mapping[str, Any] | None = None,
    remedy: str = "lower the learning rate and train again",
) -> None:
    """Write the whole checkpoint to `out`, all of it or nothing.

    Args:
        facts: for `galen_training.json`; JSON.
        dtype: of all weights; None: each keeps its own.
        adapter_config: PEFT's, where LoRA was trained: it is written beside, too.
        remedy: what to do about a number that does not fit the type.

    Raises:
        CheckpointError: `out` exists, the disk is full, or a number does not fit the type.
    """
    refuse_taken(out)
    # A rest may be of other numbers, and is written again in no time beside the training.
    shutil.rmtree(partial_of(out), ignore_errors=True)
    source = open_tensors(base)
    outputs = _outputs(source, trained, dtype)

    def write_rest(folder: Path, _: object) -> None:
        for file in base.iterdir():
            if file.is_file() and not _is_of_weights(file):
                shutil.copyfile(file, folder / file.name)
        _set_dtype(folder / "config.json", dtype)
        text = json.dumps(dict(facts), indent=2, default=str)
        (folder / TRAINING_FILE).write_text(f"{text}\n", "utf-8")
        if adapter_config is not None:
            _write_adapter(folder / ADAPTER_FOLDER, trained, adapter_config)

    recipe = Recipe(
        "train",
        dict(facts),
        {"base": source},
        remedy,
    )
    with ProgressBar(sum(output.num_bytes for output in outputs)) as bar:
        write_folder(Destination(out, bar), recipe, outputs, write_rest)


def own_name(name: str) -> str:
    """Return transformers' name of a checkpoint's tensor."""
    for published, own in _OWN_NAMES:
        if name.startswith(published):
            return own + name.removeprefix(published)
    return name


def _outputs(source: TensorSource, trained: Trained, dtype: torch.dtype | None) -> list[Output]:
    config = json.loads((source.path / "config.json").read_text("utf-8"))
    tower = (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
    used: set[str] = set()
    outputs: list[Output] = []
    for stored_name, info in source.tensors.items():
        name = own_name(stored_name)
        target = DTYPES[info.dtype] if dtype is None else dtype
        make = _maker(source, stored_name, name, trained, used)
        named = {value: key for key, value in DTYPES.items()}[target]
        outputs.append(
            Output(published_name(name, tower), named, info.shape, partial(_cast, make, target))
        )
    left = [n for n in trained.tensors if n not in used and n != NEW_ROWS and ".lora_" not in n]
    assert not left, f"trained, but not in the base: {left}"  # noqa: S101 (both are its names)
    return outputs


def _maker(
    source: TensorSource, stored_name: str, name: str, trained: Trained, used: set[str]
) -> Callable[[], torch.Tensor]:
    if name in trained.tensors:
        used.add(name)
        return partial(trained.tensors.__getitem__, name)
    if (pair := trained.lora_of(name)) is not None:
        return partial(_merged, source, stored_name, pair, trained.lora_scale)
    if name == EMBEDDING and trained.new_row_ids:
        return partial(_with_rows, source, stored_name, trained)
    return partial(source.read, stored_name)


def _merged(
    source: TensorSource, name: str, pair: tuple[torch.Tensor, torch.Tensor], scale: float
) -> torch.Tensor:
    """Return W + scale B A in float32 (arXiv:2106.09685, section 4.1)."""
    a_RI, b_OR = pair
    return source.read(name).float() + scale * (b_OR.float() @ a_RI.float())


def _with_rows(source: TensorSource, name: str, trained: Trained) -> torch.Tensor:
    table = source.read(name).float().clone()
    table[list(trained.new_row_ids)] = trained.tensors[NEW_ROWS].float()
    return table


def _cast(make: Callable[[], torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    return make().to(dtype)


def _is_of_weights(file: Path) -> bool:
    return file.suffix in {".safetensors", ".bin", ".pt", ".pth"} or file.name in {
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "galen_manifest.json",  # of another result
        TRAINING_FILE,
    }


def _set_dtype(file: Path, dtype: torch.dtype | None) -> None:
    if dtype is None:
        return
    config = json.loads(file.read_text("utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _write_adapter(folder: Path, trained: Trained, config: Mapping[str, Any]) -> None:
    folder.mkdir()
    lora = {
        f"base_model.model.{name}": tensor.contiguous()
        for name, tensor in trained.tensors.items()
        if ".lora_" in name
    }
    save_file(lora, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(dict(config), indent=2) + "\n", "utf-8")
    rest = {n: t.contiguous() for n, t in trained.tensors.items() if ".lora_" not in n}
    if rest:  # PEFT's format has no place for the projector
        # One entry: safetensors writes several in any order.
        save_file(
            rest,
            folder / TRAINED_BESIDE_FILE,
            metadata={NEW_ROW_IDS: json.dumps(trained.new_row_ids)},
        )
