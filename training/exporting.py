"""A finished checkpoint out of a run that was stopped: `galen train export`.

Reads what each card wrote of the trained tensors and puts it together; the rest is the base's. What
does *not* live here: writing the result (`finished.py`).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling.checkpoint_files import CheckpointError, open_checkpoint, sampled_fingerprint
from modeling.checkpoints.output_folder import refuse_existing
from training.audit import PROBLEMS_FILE
from training.config import TrainConfig
from training.errors import TrainingError
from training.finished import EMBEDDING, NEW_ROWS, Trained, own_name, write_result
from training.loading import new_rows
from training.processor import open_processing
from training.provenance import versions
from training.resuming import RUN_FILE, read_identity
from training.run_state import checkpoints_in, part_file, step_of

_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    identity: Mapping[str, Any]
    config: TrainConfig


def export(folder: Path, out: Path, step: int | None = None, base: Path | None = None) -> int:
    """Write a run's newest checkpoint, or that of `step`, as a model to `out`; returns its step.

    Args:
        base: where the base lies now; None: where it lay.

    Raises:
        TrainingError: there is no such run or checkpoint, or the base is another one.
        CheckpointError: the base cannot be read, or `out` exists.
    """
    refuse_existing(out)
    run = _read_run(folder, base)
    checkpoint = _choose(folder, step)
    taken = step_of(checkpoint)
    _refuse_other_base(run)
    exported = {"step": taken, "of_steps": run.identity["total_steps"]}
    facts = {"run": run.identity, "exported": exported, "problems": _problems(folder)}
    write_result(run.config, _trained(run, checkpoint), out, facts | versions())
    return taken


def _read_run(folder: Path, base: Path | None) -> _Run:
    identity = read_identity(folder)
    if identity is None:
        raise TrainingError(
            f"{folder} is no folder of a run ({RUN_FILE} is missing); give the one that ends in "
            ".training"
        )
    try:
        config = TrainConfig.model_validate(identity["recipe"])
    except (KeyError, ValidationError) as error:
        raise TrainingError(
            f"{folder / RUN_FILE} is of another version of Galen, or damaged "
            f"({type(error).__name__})"
        ) from error
    if base is not None:
        model = config.model.model_copy(update={"path": base})
        config = config.model_copy(update={"model": model})
    return _Run(folder, identity, config)


def _choose(folder: Path, step: int | None) -> Path:
    found = {step_of(path): path for path in checkpoints_in(folder)}
    if not found:
        raise TrainingError(
            f"{folder} has no checkpoint yet; a run with output.save_every_steps writes some"
        )
    if step is None:
        return found[max(found)]
    if step not in found:
        raise TrainingError(
            f"{folder} has no checkpoint of step {step}; there are {', '.join(map(str, found))}"
        )
    return found[step]


def _refuse_other_base(run: _Run) -> None:
    path = run.config.model.path
    try:
        files = open_checkpoint(path)
    except CheckpointError as error:
        raise TrainingError(f"the base of this run: {error}; or give --base DIR") from error
    if sampled_fingerprint(files) != run.identity["base"]["fingerprint"]:
        raise TrainingError(
            f"{path} is not the checkpoint that {run.folder} began with; give that one with --base"
        )


def _trained(run: _Run, checkpoint: Path) -> Trained:
    parts = [_read_part(checkpoint, n) for n in range(run.identity["num_cards"])]
    lora = run.config.lora
    row_ids: tuple[int, ...] = ()
    if NEW_ROWS in parts[0]:
        has_template = run.config.model.conversation is not None
        processing = open_processing(run.config.model.path, has_template=has_template)
        row_ids = tuple(new_rows(run.config, processing))
    shapes = {
        own_name(name): info.shape
        for name, info in open_checkpoint(run.config.model.path).tensors.items()
    }
    tensors: dict[str, torch.Tensor] = {}
    for name in parts[0]:
        plain = name.replace(".default.", ".")
        shape = _shape_of(plain, shapes, lora.rank, len(row_ids))
        tensors[plain] = _whole([part[name] for part in parts], shape, f"{checkpoint}: {plain}")
    return Trained(tensors, lora.alpha / lora.rank, row_ids)


def _read_part(checkpoint: Path, rank: int) -> dict[str, torch.Tensor]:
    file = checkpoint / part_file("trained", rank)
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{file} cannot be read ({type(error).__name__}); take another --step"
        ) from error


def _shape_of(name: str, shapes: Mapping[str, _Shape], rank: int, num_rows: int) -> _Shape | None:
    """Return the shape of a trained tensor as a whole; None: no such layer in the base."""
    if name == NEW_ROWS:
        return (num_rows, *shapes[EMBEDDING][1:])
    layer, lora, side = name.partition(".lora_")
    if not lora:
        return shapes.get(name)
    outputs, inputs = shapes.get(f"{layer}.weight", (0, 0))
    return (rank, inputs) if side.startswith("A") else (outputs, rank)


def _whole(parts: list[torch.Tensor], shape: _Shape | None, name: str) -> torch.Tensor:
    """Put together what cards hold: rows each (FSDP2's way), or all of it on each."""
    if parts[0].shape == shape:
        return parts[0]
    joined = torch.cat(parts)
    if joined.shape != shape:
        raise TrainingError(f"{name} has {tuple(joined.shape)} weights, the base {shape}")
    return joined


def _problems(folder: Path) -> dict[str, int]:
    file = folder / PROBLEMS_FILE
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8") as lines:
        return dict(Counter(json.loads(line)["kind"] for line in lines))
