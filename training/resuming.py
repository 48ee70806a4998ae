"""What decides a run's numbers, and whether a run that is there may be gone on with.

What does *not* live here: what a checkpoint holds (`run_state.py`).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import distributed

from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from training import run_state
from training.audit import DataTable
from training.config import TrainConfig
from training.errors import TrainingError

RUN_FILE = "run.json"
"""Holds `identity_of` a run, in its folder."""
_UNCHANGED_BY = {  # settings that may differ when a run goes on: they decide no number
    "data": {"workers"},
    "devices": {"peak_tflops"},
    "output": {"save_every_steps", "keep_checkpoints", "log_every_steps", "report_to"},
}
_PROCESSING_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "chat_template.jinja",
    "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


def identity_of(
    config: TrainConfig, table: DataTable, total_steps: int, num_cards: int
) -> dict[str, Any]:
    """Return all that decides a run's numbers."""
    settings = config.model_dump(mode="json", exclude=_UNCHANGED_BY)
    return {
        "recipe": settings,
        "data_hash": table.data_hash,
        "num_examples": len(table),
        "total_steps": total_steps,
        "base": {
            "name": config.model.path.resolve().name,
            "fingerprint": sampled_fingerprint(open_checkpoint(config.model.path)),
            "processing": _processing_hash(config.model.path),
        },
        "num_cards": num_cards,
    }


def read_identity(folder: Path) -> Mapping[str, Any] | None:
    """Return `identity_of` the run in a folder; None: there is none.

    Raises:
        TrainingError: its file is damaged.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise TrainingError(f"{file} is damaged; put it back, or begin the run anew with --fresh")
    return found


def checkpoint_to_resume(folder: Path, identity: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint to go on from; None: the run begins.

    Raises:
        TrainingError: there is a run of other data or settings, or nothing of it is whole.
    """
    found = run_state.checkpoints_in(folder)
    if not found:
        return None
    before = read_identity(folder)
    if before is None:
        raise TrainingError(
            f"{folder} holds checkpoints and no {RUN_FILE} that says of what run; put it back, "
            "take another output.folder, or begin anew with --fresh"
        )
    now = json.loads(json.dumps(identity))
    differing = sorted(
        key
        for key in {**_flat(before), **_flat(now)}
        if _flat(before).get(key) != _flat(now).get(key)
    )
    if differing:
        key = differing[0].removeprefix("recipe.")
        was, is_now = _flat(before).get(differing[0]), _flat(now).get(differing[0])
        raise TrainingError(
            f"{folder} holds a run with other settings: {key} was {was!r}, now {is_now!r}; "
            "set it back to go on, take another output.folder, or begin anew with --fresh"
        )
    whole = [path for path in found if run_state.is_undamaged(path, identity["num_cards"])]
    if not whole:
        raise TrainingError(
            f"{found[-1]} is damaged and no older checkpoint is there to go on from; begin anew "
            "with --fresh (output.keep_checkpoints 2 would have kept one)"
        )
    return whole[-1]


def agreed(find: Callable[[], Path | None], rank: int, num_cards: int) -> Path | None:
    """Return what the first card finds: on a shared disk others may not see it yet.

    Raises:
        TrainingError: on all cards, what it raises on the first.
    """
    if num_cards == 1:
        return find()
    said: list[str | None] = [None, None]  # checkpoint, refusal
    if rank == 0:
        try:
            said[0] = str(find() or "")
        except TrainingError as error:
            said[1] = str(error)
    distributed.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise TrainingError(said[1])
    return Path(said[0]) if said[0] else None


def remove_damaged(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """Remove what stands behind the checkpoint that a run goes on from."""
    for path in run_state.checkpoints_in(folder):
        if run_state.step_of(path) > run_state.step_of(checkpoint):
            shutil.rmtree(path)
            say(f"{path.name} is damaged; it was removed")


def _processing_hash(path: Path) -> str:
    """Return a hash of the small files that say how images and texts become numbers."""
    known = hashlib.sha256()
    for name in _PROCESSING_FILES:
        file = path / name
        known.update(f"{name}\0".encode() + (file.read_bytes() if file.is_file() else b""))
    return known.hexdigest()


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
