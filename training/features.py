"""A frozen vision tower's features, computed once and read from a mapped file ever after.

They are the same in each epoch, so a tower that is not trained costs one pass. 7B size: 1.2 MB for
an image of 576 patches in bfloat16; the free disk is looked at before. What does *not* live here:
which images there are (`audit.py`).

Shapes: N images, P patches, D width of the tower.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from training.errors import TrainingError
from training.llava_training import tower_features_of
from training.step_data import ImageError, ImageFiles

_INDEX = "features.json"
_BATCH = 64  # images


class FeatureFile:
    """Features by image name.

    Args:
        folder: that `compute_features` filled.
    """

    argument = "tower_features"

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        self._rows: dict[str, int] = index["rows"]
        self._unreadable: dict[str, str] = index["unreadable"]
        self._dtype: torch.dtype = getattr(torch, index["dtype"])
        self._file = folder / "features.bin"
        self._shape = tuple(index["shape"])
        self._mapped: np.memmap | None = None

    def read(self, name: str) -> torch.Tensor:
        """Return [P, D]; raises ImageError."""
        if name in self._unreadable:
            raise ImageError(self._unreadable[name])
        if self._mapped is None:  # each process of a loader maps it for itself
            self._mapped = np.memmap(self._file, _kept_as(self._dtype), "r", shape=self._shape)
        features = torch.from_numpy(np.array(self._mapped[self._rows[name]]))
        return features.view(self._dtype)


def compute_features(
    model: Any,
    images: ImageFiles,
    names: Sequence[str],
    folder: Path,
    made_of: str,
    *,
    keeps_unreadable: bool = False,
) -> FeatureFile:
    """Compute the features of these images, unless the folder has them.

    Args:
        made_of: changes with the tower and the images' folder; features made of others are
            computed anew.
        keeps_unreadable: takes it that images could not be read; else all are tried again.
        model: LlavaForTraining; its tower's type and device are taken.

    Raises:
        TrainingError: the disk has no room for them.
    """
    dtype = next(model.model.vision_tower.parameters()).dtype
    key = hashlib.sha256(json.dumps([made_of, str(dtype), list(names)]).encode()).hexdigest()
    if _has(folder, key, keeps_unreadable=keeps_unreadable):
        return FeatureFile(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tower = next(model.model.vision_tower.parameters())
    unreadable: dict[str, str] = {}
    rows: dict[str, int] = {}
    mapped: np.memmap | None = None
    console = Console(stderr=True)
    starts = track(
        range(0, len(names), _BATCH),
        "features of images",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    for start in starts:
        pixels: list[torch.Tensor] = []
        for name in names[start : start + _BATCH]:
            try:
                pixels.append(images.read(name))
            except ImageError as error:
                unreadable[name] = str(error)
            else:
                rows[name] = len(rows)
        if pixels:
            with torch.no_grad():
                stacked = torch.stack(pixels).to(tower.device)
                features_NPD = tower_features_of(model, stacked).cpu().contiguous()
            if mapped is None:
                mapped = _mapped(folder, (len(names), *features_NPD.shape[1:]), tower.dtype)
            kept = features_NPD.view(_as_torch(tower.dtype)).numpy()
            mapped[len(rows) - len(pixels) : len(rows)] = kept
    if mapped is not None:
        mapped.flush()
    index = {
        "key": key,
        "rows": rows,
        "unreadable": unreadable,
        "dtype": str(tower.dtype).removeprefix("torch."),
        "shape": list(mapped.shape) if mapped is not None else [0, 0, 0],
    }
    (folder / f"{_INDEX}.partial").write_text(json.dumps(index), "utf-8")
    (folder / f"{_INDEX}.partial").rename(folder / _INDEX)
    return FeatureFile(folder)


def _has(folder: Path, key: str, *, keeps_unreadable: bool) -> bool:
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return index.get("key") == key and (keeps_unreadable or not index["unreadable"])


def _mapped(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> np.memmap:
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise TrainingError(
            f"features of {shape[0]} images take {num_bytes / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free; free some, or set data.cache_features=false"
        )
    return np.memmap(folder / "features.bin", _kept_as(dtype), "w+", shape=shape)


def _kept_as(dtype: torch.dtype) -> type:
    """Return NumPy's type of the same size; it has no bfloat16."""
    return np.int16 if dtype.itemsize == 2 else np.float32


def _as_torch(dtype: torch.dtype) -> torch.dtype:
    return torch.int16 if dtype.itemsize == 2 else torch.float32
