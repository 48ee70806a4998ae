"""Small training runs: a checkpoint of a few thousand weights, records, a recipe, and its log."""

import json
import multiprocessing
import random
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling.checkpoint_files import CheckpointError
from modeling.tiny import TinySizes, make_tiny_llava
from tests.training.llava_med_records import Record, record, text_only, write_list
from training.audit import DataTable, audit
from training.config import TrainConfig
from training.errors import TrainingError
from training.processor import LlavaProcessing, open_processing
from training.progress import LOG_FILE
from training.run import run_folder, train
from training.run_state import checkpoints_in

IMAGE_PX = 28
NUM_PATCHES = 4
SIZES = TinySizes(
    vision_width=16, vision_layers=2, text_width=32, text_layers=2, heads=2, kv_heads=1
)
Log = list[dict[str, Any]]


@dataclass(frozen=True)
class Workshop:
    """A base checkpoint and its data; runs go into folders of their own."""

    base: Path
    images: Path
    records: Path

    def recipe(self, out: Path, **settings: Any) -> TrainConfig:
        """Return a recipe; settings replace single keys, `optimizer__epochs=2`."""
        values: dict[str, Any] = {
            "name": "small",
            "model": {
                "path": self.base,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "attention": "sdpa",
            },
            "train": {"projector": True, "language_model": "full"},
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
            "data": {
                "files": [self.records],
                "image_folder": self.images,
                "max_length": 128,
                "workers": 0,
            },
            "batch": {"examples": 5, "rows": 2, "row_tokens": 160},
            "optimizer": {"learning_rate": 2e-3, "epochs": 1},
            "output": {"folder": out},
        }
        for key, value in settings.items():
            *parents, last = key.split("__")
            part = values
            for parent in parents:
                part = part.setdefault(parent, {})
            part[last] = value
        return TrainConfig.model_validate(values)


def make_workshop(folder: Path) -> Workshop:
    """Write checkpoint and data."""
    base = make_tiny_llava(folder / "base", image_px=IMAGE_PX, sizes=SIZES)
    images = folder / "images"
    images.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    return Workshop(base, images, write_list(folder / "records.json", make_records()))


def make_records() -> list[Record]:
    """Three questions of each of eight images, one of two images, and one without any."""
    drawn = random.Random(5)

    def words(most: int) -> str:
        return " ".join(drawn.choice(("liver", "left", "a", "ct")) for _ in range(most))

    asked = [
        record(
            f"<image>\nWhat {words(drawn.randint(1, 9))}?",
            f"It is {words(drawn.randint(1, 7))}",
            image=f"{number}.png",
        )
        for number in range(8)
        for _ in range(3)
    ]
    two = record("<image>\n<image>\nDiffer?", "They do.", image=["1.png", "4.png"])
    return [*asked, two, text_only(3)]


def processing_of(config: TrainConfig) -> LlavaProcessing:
    return open_processing(config.model.path)


def table_of(config: TrainConfig, folder: Path) -> DataTable:
    return audit(config, processing_of(config), folder)


def log_of(config: TrainConfig) -> Log:
    text = (run_folder(config) / LOG_FILE).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def losses_of(config: TrainConfig) -> list[float]:
    return [line["loss"] for line in log_of(config)]


def run(config: TrainConfig, *, fresh: bool = False) -> str:
    """Train; returns what the user sees."""
    with redirect_stderr(StringIO()) as said:
        train(config, fresh=fresh)
    return said.getvalue()


def newest_checkpoint(config: TrainConfig) -> Path:
    return checkpoints_in(run_folder(config))[-1]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed_tensors(before: Path, after: Path) -> set[str]:
    """Return the names of tensors that are not bit-identical; both hold the same names."""
    old, new = tensors_of(before), tensors_of(after)
    assert old.keys() == new.keys()
    return {
        name
        for name in old
        if old[name].dtype != new[name].dtype or not torch.equal(old[name], new[name])
    }


# ------------------------------------------------------------------------- processes of their own


def fork_server() -> ForkServerContext:
    """Return what starts processes that have everything imported and nothing computed yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.small_runs"])
    return context


def start_run(
    config: TrainConfig, said: Path, limits: Mapping[str, Any] | None = None
) -> ForkServerProcess:
    """Start a run in another process; what it says goes into a file."""
    process = fork_server().Process(
        target=_train_there, args=(config.model_dump_json(), str(said), dict(limits or {}))
    )
    process.start()
    return process


def _train_there(config: str, said: str, options: dict[str, Any]) -> None:
    import resource  # noqa: PLC0415 - only in the other process
    import signal  # noqa: PLC0415

    torch.set_num_threads(1)
    if (most := options.get("file_bytes")) is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    with Path(said).open("w", encoding="utf-8", buffering=1) as file, redirect_stderr(file):
        try:
            train(TrainConfig.model_validate_json(config))
        except (TrainingError, CheckpointError) as error:
            file.write(f"{type(error).__name__}: {error}\n")
            raise SystemExit(1) from None
