"""`galen train export` makes of a run's checkpoint what the run itself would have made of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from modeling.tiny import make_tiny_llava
from tests.training.small_runs import Workshop, changed_tensors, run
from training.config import TrainConfig
from training.errors import TrainingError
from training.exporting import export
from training.resuming import RUN_FILE
from training.run import run_folder

LORA = {"projector": True, "language_model": "lora", "new_tokens": ("<image>",)}
FULL = {"projector": True, "language_model": "full"}


def make_run(workshop: Workshop, out: Path, train: dict[str, Any]) -> TrainConfig:
    """Train four steps, with a checkpoint at the second and the last."""
    config = workshop.recipe(
        out,
        train=train,
        optimizer__max_steps=4,
        output__save_every_steps=2,
        output__keep_checkpoints=2,
    )
    run(config)
    return config


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("train", [LORA, FULL], ids=["lora", "full"])
def test_the_last_checkpoint_gives_the_finished_one_to_the_byte(
    workshop: Workshop, tmp_path: Path, train: dict[str, Any]
):
    config = make_run(workshop, tmp_path / "out", train)

    assert export(run_folder(config), tmp_path / "exported") == 4

    finished, exported = files_in(tmp_path / "out"), files_in(tmp_path / "exported")
    said = json.loads(exported.pop("galen_training.json"))
    assert said.pop("exported") == {"step": 4, "of_steps": 4}
    assert said == json.loads(finished.pop("galen_training.json"))
    assert exported == finished


def test_an_earlier_step_is_another_model(workshop: Workshop, tmp_path: Path):
    config = make_run(workshop, tmp_path / "out", FULL)

    assert export(run_folder(config), tmp_path / "early", step=2) == 2

    assert changed_tensors(tmp_path / "out", tmp_path / "early")


def test_what_several_cards_wrote_is_put_together(workshop: Workshop, tmp_path: Path):
    config = make_run(workshop, tmp_path / "out", LORA)
    folder = run_folder(config)
    divide(folder, folder / "checkpoint-4")

    export(folder, tmp_path / "exported")

    assert changed_tensors(tmp_path / "out", tmp_path / "exported") == set()


def divide(folder: Path, checkpoint: Path) -> None:
    """Write a checkpoint as two cards would: rows of each tensor, the first card's half larger."""
    whole = load_file(checkpoint / "trained-00000.safetensors")
    halves = {name: [*tensor.chunk(2), tensor[:0]][:2] for name, tensor in whole.items()}
    for rank in range(2):
        part = {name: pair[rank].clone() for name, pair in halves.items()}
        save_file(part, checkpoint / f"trained-{rank:05d}.safetensors")
    identity = json.loads((folder / RUN_FILE).read_text())
    (folder / RUN_FILE).write_text(json.dumps({**identity, "num_cards": 2}))


def test_what_cannot_be_exported_is_refused_in_one_line(workshop: Workshop, tmp_path: Path):
    config = make_run(workshop, tmp_path / "out", FULL)
    folder, out = run_folder(config), tmp_path / "exported"
    with pytest.raises(TrainingError, match="no checkpoint of step 3; there are 2, 4"):
        export(folder, out, step=3)
    with pytest.raises(TrainingError, match="is no folder of a run"):
        export(tmp_path / "out", out)
    other = make_tiny_llava(tmp_path / "other")
    with pytest.raises(TrainingError, match="is not the checkpoint that"):
        export(folder, out, base=other)
    with pytest.raises(TrainingError, match="or give --base DIR"):
        export(folder, out, base=tmp_path / "nowhere")
    (folder / "checkpoint-4" / "trained-00000.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(TrainingError, match="cannot be read"):
        export(folder, out)
    shutil.rmtree(folder / "checkpoint-2")
    shutil.rmtree(folder / "checkpoint-4")
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        export(folder, out)
    assert not out.exists()
