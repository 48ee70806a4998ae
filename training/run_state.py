"""A run's checkpoints: what is needed to go on exactly where it stood, and nothing else.

Trained parameters, the optimizer's moments, random numbers and counters, in safetensors and JSON;
each card writes what it holds itself. A checkpoint appears under its name when it is whole. What
does *not* live here: the finished model (`finished.py`).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from modeling.durable_files import sync_to_disk
from training.loading import parameter_names
from training.sharded import as_part_of

Kind = Literal["trained", "optimizer", "random"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
_NAME = re.compile(r"checkpoint-([0-9]+)")
_MOMENT = "/"  # between a parameter's name and its moment's
_SHARED_BY_ALL = "qmap"  # bitsandbytes: one tensor for all parameters, which safetensors refuses


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def is_undamaged(checkpoint: Path, num_ranks: int) -> bool:
    """Whether all files are there, each as long as it says; their numbers are not looked at."""
    try:
        for rank in range(num_ranks):
            for kind in _KINDS:
                with safe_open(checkpoint / part_file(kind, rank), "pt"):
                    pass
        for name in ("trainer_state.json", "schedule.json"):
            json.loads((checkpoint / name).read_text("utf-8"))
    except (OSError, SafetensorError, ValueError):
        return False
    return True


def step_of(checkpoint: Path) -> int:
    """Return after how many steps it was written."""
    named = _NAME.fullmatch(checkpoint.name)
    assert named is not None  # noqa: S101 (see `checkpoints_in`)
    return int(named[1])


def partial_of(folder: Path, step: int) -> Path:
    """Return where a checkpoint stands until it is whole."""
    return folder / f"checkpoint-{step}.partial"


def remove_partial(folder: Path) -> None:
    """Remove what an interrupted run left half written."""
    for path in folder.glob("*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Remove a run's checkpoints, for it begins anew; nothing else in its folder is touched."""
    for path in checkpoints_in(folder):
        shutil.rmtree(path)


def part_file(kind: Kind, rank: int) -> str:
    """Return the name of what a card writes of a kind."""
    return f"{kind}-{rank:05d}.safetensors"


def write_rank(partial: Path, model: Any, optimizer: torch.optim.Optimizer, rank: int) -> None:
    """Write what this card holds; raises OSError where the disk is full."""
    trained = dict(parameter_names(model))
    save_file(
        {name: _local(p).detach() for name, p in trained.items()},
        partial / part_file("trained", rank),
    )
    names: dict[Any, str] = {parameter: name for name, parameter in trained.items()}
    moments = {
        f"{names[parameter]}{_MOMENT}{moment}": _kept(moment, value)
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
    }
    save_file(moments, partial / part_file("optimizer", rank))
    save_file(_random_states(), partial / part_file("random", rank))


def make_whole(folder: Path, step: int, keep: int) -> None:
    """Give a checkpoint its name, and remove all but the newest `keep`."""
    partial = partial_of(folder, step)
    for path in partial.iterdir():
        sync_to_disk(path)
    sync_to_disk(partial)
    final = folder / f"checkpoint-{step}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    sync_to_disk(folder)
    for old in checkpoints_in(folder)[:-keep]:
        shutil.rmtree(old)


def load_trained(checkpoint: Path, model: Any, rank: int) -> None:
    """Put the trained parameters of a checkpoint into a model."""
    stored = load_file(checkpoint / part_file("trained", rank))
    with torch.no_grad():
        for name, parameter in parameter_names(model):
            _local(parameter).copy_(stored[name])


def load_optimizer(
    checkpoint: Path, model: Any, optimizer: torch.optim.Optimizer, rank: int
) -> None:
    """Put the optimizer's moments back."""
    stored = load_file(checkpoint / part_file("optimizer", rank))
    of_name = dict(parameter_names(model))
    optimizer.state.clear()
    for key, value in stored.items():
        name, moment = key.rsplit(_MOMENT, 1)
        parameter = of_name[name]
        optimizer.state[parameter][moment] = _like(parameter, value, moment)


def load_random(checkpoint: Path, rank: int) -> None:
    """Put the generators of random numbers back."""
    stored = load_file(checkpoint / part_file("random", rank))
    torch.random.set_rng_state(stored["cpu"])
    if "cuda" in stored and torch.cuda.is_available():
        torch.cuda.set_rng_state(stored["cuda"])


def _kept(moment: str, value: torch.Tensor | int) -> torch.Tensor:
    """Return a moment as it is written: bitsandbytes counts steps in int, and shares its maps."""
    if isinstance(value, int):
        return torch.tensor(value)
    value = _local(value).contiguous()
    return value.clone() if moment.startswith(_SHARED_BY_ALL) else value


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(parameter: torch.Tensor, value: torch.Tensor, moment: str) -> torch.Tensor | int:
    """Return a moment where its parameter is, cut as it is."""
    if moment == "step" and value.dtype == torch.int64:
        return int(value)
    if moment == "step" and not value.is_cuda and not parameter.is_cuda:
        return value
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == _local(parameter).shape != ():
        return as_part_of(parameter, value)  # type: ignore[arg-type]  # it is both
    return value


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
