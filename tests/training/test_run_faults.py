"""What goes wrong while a run trains: a full disk, images that are none, numbers that are none."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.checkpoint_files import CheckpointError
from tests.training.small_runs import (
    Workshop,
    changed_tensors,
    log_of,
    losses_of,
    newest_checkpoint,
    run,
    start_run,
    table_of,
)
from training.audit import PROBLEMS_FILE
from training.errors import TrainingError
from training.finished import TRAINING_FILE
from training.progress import LOG_FILE
from training.run import run_folder
from training.run_state import checkpoints_in, step_of

EMBEDDING = "language_model.model.embed_tokens.weight"
SAVES = {"output__save_every_steps": 2}


# ----------------------------------------------------------------------------------- a full disk


def test_a_full_disk_ends_no_run_and_the_same_command_finishes(workshop: Workshop, tmp_path: Path):
    """A limit on the size of files stands for a full disk: both are a write that fails half-way."""
    config = workshop.recipe(tmp_path / "out", **SAVES)
    said = tmp_path / "said"
    process = start_run(config, said, {"file_bytes": 40_000})
    process.join()
    text = said.read_text("utf-8")
    assert process.exitcode == 1
    for step in (2, 4, 6):
        assert f"no checkpoint at step {step}" in text
    assert text.splitlines()[-1].startswith("CheckpointError: no room was left on the disk")
    assert len(losses_of(config)) == 6
    assert checkpoints_in(run_folder(config)) == []
    assert not list(run_folder(config).glob("*.partial"))
    assert not config.output.folder.exists()
    before = losses_of(config)
    run(config)
    assert losses_of(config) == pytest.approx(before, abs=2e-5)  # on more threads
    assert config.output.folder.is_dir()


def test_where_only_the_result_has_no_room_the_last_checkpoint_finishes_it(
    workshop: Workshop, tmp_path: Path
):
    config = workshop.recipe(tmp_path / "out", **SAVES, train__language_model="frozen")
    process = start_run(config, tmp_path / "said", {"file_bytes": 40_000})
    process.join()
    assert process.exitcode == 1
    assert step_of(newest_checkpoint(config)) == 6
    assert not config.output.folder.exists()
    log = losses_of(config)
    said = run(config)
    assert "goes on behind step 6" in said
    assert losses_of(config) == log
    whole = workshop.recipe(tmp_path / "whole", **SAVES, train__language_model="frozen")
    start_run(whole, tmp_path / "said-whole").join()
    assert changed_tensors(whole.output.folder, config.output.folder) == set()


def test_a_log_without_room_ends_no_run(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out")
    run_folder(config).mkdir()
    (run_folder(config) / LOG_FILE).symlink_to("/dev/full")
    said = run(config)
    assert f"step 3 is not in {run_folder(config) / LOG_FILE}: No space left" in said


def test_a_folder_in_the_way_of_the_result_is_said_before_the_training(
    workshop: Workshop, tmp_path: Path
):
    config = workshop.recipe(tmp_path / "out")
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(CheckpointError, match=r"out\.partial is in the way"):
        run(config)
    assert not run_folder(config).exists()


# --------------------------------------------------------------------------------------- images


def garbage(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n but nothing more")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture
def images(workshop: Workshop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop.images, tmp_path / "images"))


@pytest.mark.parametrize(("spoil", "is_cached"), [(garbage, False), (half, False), (garbage, True)])
def test_examples_of_an_unreadable_image_are_left_out_and_listed(
    workshop: Workshop,
    images: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    is_cached: bool,
):
    spoil(images / "3.png")
    config = workshop.recipe(
        tmp_path / "out",
        data__image_folder=images,
        data__limits={"missing_images": 0.2},
        data__cache_features=is_cached,
        optimizer__epochs=2,
    )
    said = run(config)
    assert "3 missing_images" in said
    listed = (run_folder(config) / PROBLEMS_FILE).read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["record"] for line in listed) == [9, 10, 11]
    assert {json.loads(line)["kind"] for line in listed} == {"missing_images"}
    facts = json.loads((config.output.folder / TRAINING_FILE).read_text("utf-8"))
    assert facts["problems"] == {"missing_images": 3}
    table = table_of(config, tmp_path / "audit")
    is_read = ~np.isin(table.record, (9, 10, 11))
    assert sum(line["num_targets"] for line in log_of(config)) == 2 * int(
        table.num_trained[is_read].sum()
    )


def test_too_many_unreadable_images_stop_the_run(workshop: Workshop, images: Path, tmp_path: Path):
    garbage(images / "3.png")
    config = workshop.recipe(tmp_path / "out", data__image_folder=images)
    with pytest.raises(TrainingError, match=r"lack an image that can be read.*fetch the images"):
        run(config)
    assert not config.output.folder.exists()


def test_features_are_computed_anew_for_an_image_that_was_mended(
    workshop: Workshop, images: Path, tmp_path: Path
):
    whole = (images / "3.png").read_bytes()
    garbage(images / "3.png")
    config = workshop.recipe(tmp_path / "out", data__image_folder=images, data__cache_features=True)
    with pytest.raises(TrainingError, match="missing_images"):
        run(config)
    (images / "3.png").write_bytes(whole)
    run(config)
    assert len(losses_of(config)) == 6


def test_unreadable_images_found_before_a_run_was_cut_are_still_counted(
    workshop: Workshop, images: Path, tmp_path: Path
):
    garbage(images / "3.png")
    config = workshop.recipe(
        tmp_path / "out",
        **SAVES,
        data__image_folder=images,
        data__limits={"missing_images": 0.2},
    )
    run(config)
    shutil.rmtree(config.output.folder)
    run(config)  # goes on behind its last step: nothing is read again
    facts = json.loads((config.output.folder / TRAINING_FILE).read_text("utf-8"))
    assert facts["problems"] == {"missing_images": 3}
    assert len((run_folder(config) / PROBLEMS_FILE).read_text("utf-8").splitlines()) == 3


# -------------------------------------------------------------------------------------- numbers


def poisoned(workshop: Workshop, folder: Path, name: str, value: float) -> Path:
    """Copy the base, with one number of a tensor in its stead."""
    shutil.copytree(workshop.base, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flatten()[0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_records(
    workshop: Workshop, tmp_path: Path, value: float
):
    base = poisoned(workshop, tmp_path / "base", "multi_modal_projector.linear_1.bias", value)
    config = workshop.recipe(tmp_path / "out", model__path=base)
    with pytest.raises(TrainingError, match=r"loss of step 1 is not finite.*record"):
        run(config)
    assert not (run_folder(config) / LOG_FILE).exists() or log_of(config) == []
    assert checkpoints_in(run_folder(config)) == []


def test_the_last_checkpoint_is_as_it_was_when_a_loss_becomes_infinite(
    workshop: Workshop, images: Path, tmp_path: Path
):
    """Its weights run away by a learning rate without any measure."""
    config = workshop.recipe(
        tmp_path / "out",
        output__save_every_steps=1,
        optimizer__learning_rate=1e38,
        optimizer__warmup_share=0.34,  # two steps: the first has a rate of 0
        optimizer__max_gradient_norm=1e30,
    )
    with pytest.raises(TrainingError, match=r"(loss|gradient) of step \d+ is not finite"):
        run(config)
    kept = load_file(newest_checkpoint(config) / "trained-00000.safetensors")
    assert step_of(newest_checkpoint(config)) == len(log_of(config))
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_a_gradient_that_is_not_finite_stops_before_the_step(workshop: Workshop, tmp_path: Path):
    """Its losses are finite; squares of its gradients are not."""
    model = _steep(workshop, tmp_path / "base")
    config = workshop.recipe(tmp_path / "out", model__path=model)
    with pytest.raises(TrainingError, match=r"gradient of step 1 is not finite.*record"):
        run(config)


def _steep(workshop: Workshop, folder: Path) -> Path:
    """A base whose output layer is so large that its gradient's square overflows float32."""
    shutil.copytree(workshop.base, folder)
    tensors: dict[str, Any] = load_file(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] *= 1e25
    tensors["language_model.model.layers.1.mlp.down_proj.weight"] *= 1e-20
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_result_that_does_not_fit_its_type_is_refused(workshop: Workshop, tmp_path: Path):
    base = poisoned(workshop, tmp_path / "base", EMBEDDING, 1e30)  # of padding: never read
    config = workshop.recipe(
        tmp_path / "out", model__path=base, output__dtype="float16", train__language_model="frozen"
    )
    with pytest.raises(CheckpointError, match="would hold NaN or infinity as F16"):
        run(config)
    assert not config.output.folder.exists()
    assert torch.isfinite(torch.tensor(losses_of(config))).all()
