"""A run that was killed goes on to the very numbers of one that was not."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from tests.training.small_runs import (
    Workshop,
    changed_tensors,
    losses_of,
    newest_checkpoint,
    run,
    start_run,
)
from training.config import TrainConfig
from training.errors import TrainingError
from training.progress import LOG_FILE, drop_later_lines
from training.resuming import RUN_FILE
from training.run import run_folder
from training.run_state import checkpoints_in, load_optimizer, step_of, write_rank

PROJECTOR = {"train__language_model": "frozen"}
LORA = {"train__language_model": "lora", "lora__dropout": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "projector": PROJECTOR,
    "full": {},
    "lora with dropout": LORA,
    "lora with dropout, features computed": LORA | {"data__cache_features": True},
    "workers": {"data__workers": 2},
    "lora, workers": LORA | {"data__workers": 2},
}
ARE_LONG = {"projector", "lora, workers"}  # a part, or both, of what the others show
SAVED = {"output__save_every_steps": 2, "output__keep_checkpoints": 2, "optimizer__epochs": 2}


def until(path: Path, is_there: Callable[[Path], bool], process: Any) -> None:
    """Watch a file without a pause until it is as wished; its writer must live."""
    while not is_there(path):
        assert process.is_alive(), "the run ended before"
        process.join(0.002)


def has_steps(number: int) -> Callable[[Path], bool]:
    return lambda log: log.is_file() and log.read_bytes().count(b"\n") >= number


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def run_and_kill(config: TrainConfig, at_step: int, said: Path) -> None:
    process = start_run(config, said)
    until(run_folder(config) / LOG_FILE, has_steps(at_step), process)
    kill(process)


def finish(config: TrainConfig, said: Path) -> str:
    process = start_run(config, said)
    process.join()
    text = said.read_text("utf-8")
    assert process.exitcode == 0, text
    return text


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind in ARE_LONG else ()) for kind in KINDS],
)
def test_a_killed_run_goes_on_to_bit_equal_losses(workshop: Workshop, tmp_path: Path, kind: str):
    at_step = random.Random(kind).randint(3, 9)
    whole = workshop.recipe(tmp_path / "whole", **SAVED, **KINDS[kind])
    cut = workshop.recipe(tmp_path / "cut", **SAVED, **KINDS[kind])
    finish(whole, tmp_path / "said-whole")
    run_and_kill(cut, at_step, tmp_path / "said-killed")
    partial = run_folder(cut) / "checkpoint-99.partial"
    partial.mkdir()
    (partial / "trained-00000.safetensors").write_bytes(b"half")
    said = finish(cut, tmp_path / "said")
    assert "goes on behind step" in said
    assert losses_of(cut) == losses_of(whole)
    assert len(losses_of(cut)) == 12
    assert changed_tensors(whole.output.folder, cut.output.folder) == set()
    assert not partial.exists()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(tmp_path / "out", output__save_every_steps=4)
    run_and_kill(config, 1, tmp_path / "said-killed")
    assert not checkpoints_in(run_folder(config))
    finish(config, tmp_path / "said")
    assert len(losses_of(config)) == 6


@pytest.fixture(scope="module")
def stopped(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run of six steps went as far as step 4: its last steps are forgotten."""
    folder = tmp_path_factory.mktemp("stopped")
    config = recipe(workshop, folder)
    run(config)
    shutil.rmtree(config.output.folder)
    shutil.rmtree(newest_checkpoint(config))
    assert step_of(newest_checkpoint(config)) == 4
    return folder


def recipe(workshop: Workshop, folder: Path, **settings: Any) -> TrainConfig:
    settings = {"output__save_every_steps": 2, "output__keep_checkpoints": 3} | settings
    return workshop.recipe(folder / "out", **settings)


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it under the same name, as the folder is a setting, too."""
    folder = tmp_path / "again"
    shutil.copytree(stopped, folder)
    state = folder / "out.training" / RUN_FILE
    state.write_text(state.read_text("utf-8").replace(str(stopped), str(folder)), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 4),
        ("optimizer.learning_rate", 1e-3),
        ("data.max_length", 120),
        ("batch.layout", "plain"),
        ("train.language_model", "lora"),
    ],
)
def test_a_run_does_not_go_on_with_another_setting(
    workshop: Workshop, again: Path, key: str, value: object
):
    config = recipe(workshop, again, **{key.replace(".", "__"): value})
    with pytest.raises(TrainingError, match=rf"{key} was .* begin anew with --fresh"):
        run(config)


def test_a_run_does_not_go_on_with_other_data(workshop: Workshop, again: Path):
    changed = again / "records.json"
    changed.write_text(workshop.records.read_text("utf-8").replace("liver", "heart"), "utf-8")
    config = recipe(workshop, again)
    files = config.data.model_copy(update={"files": (changed,)})
    state = run_folder(config) / RUN_FILE
    state.write_text(state.read_text("utf-8").replace(str(workshop.records), str(changed)), "utf-8")
    with pytest.raises(TrainingError, match="data_hash was"):
        run(config.model_copy(update={"data": files}))


def test_settings_that_decide_no_number_may_change(workshop: Workshop, again: Path):
    before = recipe(workshop, again)
    log = losses_of(before)
    config = recipe(workshop, again, output__save_every_steps=1, output__keep_checkpoints=9)
    run(config)
    assert losses_of(config) == log
    assert [step_of(path) for path in checkpoints_in(run_folder(config))] == [2, 4, 5, 6]


def test_fresh_begins_anew(workshop: Workshop, again: Path):
    config = recipe(workshop, again, optimizer__learning_rate=1e-3)
    said = run(config, fresh=True)
    assert "goes on" not in said
    assert len(losses_of(config)) == 6


def damage(checkpoint: Path) -> None:
    file = checkpoint / "trained-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def test_fresh_removes_nothing_where_the_run_is_refused(workshop: Workshop, again: Path):
    config = recipe(workshop, again, data__image_folder=again / "nowhere")
    before = [path.name for path in checkpoints_in(run_folder(config))]

    with pytest.raises(TrainingError, match="nowhere"):
        run(config, fresh=True)

    assert before
    assert [path.name for path in checkpoints_in(run_folder(config))] == before


def test_moments_in_eight_bits_come_back_as_they_were(tmp_path: Path):
    # Made by the library's own code; its kernels for a step need a GPU.
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(128, 64), "b": torch.nn.Linear(128, 64)})
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters())  # type: ignore[attr-defined]
    optimizer.fill_qmap()
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            parameter.grad = torch.ones_like(parameter)
            optimizer.init_state(group, parameter, group_index, index)
            optimizer.state[parameter]["step"] = 3
    before = {
        (name, key): value.clone() if isinstance(value, torch.Tensor) else value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }

    write_rank(tmp_path, model, optimizer, 0)
    load_optimizer(tmp_path, model, optimizer, 0)

    assert any(key == "qmap1" for _, key in before)
    for (name, key), value in before.items():
        found = optimizer.state[model.get_parameter(name)][key]
        assert type(found) is type(value)
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(value))


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(workshop: Workshop, again: Path):
    config = recipe(workshop, again)
    log = losses_of(config)
    damage(newest_checkpoint(config))
    said = run(config)
    assert "checkpoint-4 is damaged" in said
    assert "goes on behind step 2" in said
    assert losses_of(config) == log


def test_without_a_whole_checkpoint_it_is_said_in_one_line(workshop: Workshop, again: Path):
    config = recipe(workshop, again)
    for checkpoint in checkpoints_in(run_folder(config)):
        damage(checkpoint)
    with pytest.raises(TrainingError, match=r"checkpoint-4 is damaged .* begin anew with --fresh"):
        run(config)
    assert len(checkpoints_in(run_folder(config))) == 2  # nothing was taken away


def test_checkpoints_of_an_unknown_run_are_not_gone_on_with(workshop: Workshop, again: Path):
    config = recipe(workshop, again)
    (run_folder(config) / RUN_FILE).unlink()
    with pytest.raises(TrainingError, match=r"no run\.json"):
        run(config)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_account_of_a_run_is_one_line(workshop: Workshop, again: Path, content: str):
    config = recipe(workshop, again)
    (run_folder(config) / RUN_FILE).write_text(content, "utf-8")

    with pytest.raises(TrainingError, match=r"run\.json is damaged; .*--fresh"):
        run(config)


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path: Path):
    log = tmp_path / LOG_FILE
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    log.write_text("\n".join(lines) + '\n{"step": 4, "lo', "utf-8")
    drop_later_lines(log, 2)
    assert log.read_text("utf-8") == "\n".join(lines[:2]) + "\n"


def test_the_oldest_checkpoints_are_removed(workshop: Workshop, tmp_path: Path):
    config = workshop.recipe(
        tmp_path / "out", output__save_every_steps=1, output__keep_checkpoints=2
    )
    run(config)
    assert [step_of(path) for path in checkpoints_in(run_folder(config))] == [5, 6]
