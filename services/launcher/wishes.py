"""Which models a `galen up` was asked to run: its options and variables as wishes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import typer

from services.launcher.demo_files import DEMO_CHECKPOINT, DEMO_MODEL_ID
from services.launcher.model_argument import absolute_path, name_and_folder
from services.protocol.admin import LoadModel
from services.protocol.keys import why_no_model_name
from services.settings_guard import set_variables
from services.worker.settings import ENV_PREFIX, WorkerSettings

EngineChoice = Literal["auto", "transformers", "vllm", "fake"]

_MODEL_PATH, _MODEL_ID = f"{ENV_PREFIX}MODEL_PATH", f"{ENV_PREFIX}MODEL_ID"
MODEL_VARIABLES = (_MODEL_PATH, _MODEL_ID)


def read_wishes(
    models: Sequence[str], engine: EngineChoice, overrides: Mapping[str, str | int | None]
) -> list[LoadModel]:
    """Return a wish per model; [] where the demo's own checkpoint is wanted.

    Args:
        models: values of --model: DIR or NAME=DIR; with the fake engine NAME. Without any, the
            variables of a worker say which (GALEN_WORKER_MODEL_PATH, GALEN_WORKER_MODEL_ID).
        overrides: fields of every wish.

    Raises:
        typer.BadParameter: a value is none of these, or a name comes twice.
    """
    pairs = [_name_and_path(value, engine) for value in models] or _from_variables(engine)
    names = [name for name, _ in pairs]
    for name in names:
        if problem := why_no_model_name(name):
            raise typer.BadParameter(f"--model: {problem} (--model NAME=DIR gives another)")
        if names.count(name) > 1:
            raise typer.BadParameter(f"--model: {name!r} comes twice; write NAME=DIR")
    return [
        LoadModel(model_id=name, path=path, engine=engine, **overrides)  # pyright: ignore[reportArgumentType] - checked as settings
        for name, path in pairs
    ]


def demo_wish(engine: EngineChoice, overrides: Mapping[str, str | int | None]) -> LoadModel:
    """Return the wish for the demo's checkpoint."""
    name = WorkerSettings().model_id if set_variables([_MODEL_ID]) else DEMO_MODEL_ID
    return LoadModel(model_id=name, path=str(DEMO_CHECKPOINT), engine=engine, **overrides)  # pyright: ignore[reportArgumentType] - as above


def _name_and_path(value: str, engine: EngineChoice) -> tuple[str, str]:
    if engine == "fake":
        if "=" in value or Path(value).is_dir():
            raise typer.BadParameter("the fake engine has no checkpoint; write --model NAME")
        return value, ""
    name, folder = name_and_folder(value)
    return Path(folder).name if name is None else name, folder


def _from_variables(engine: EngineChoice) -> list[tuple[str, str]]:
    settings, has_id = WorkerSettings(), bool(set_variables([_MODEL_ID]))
    if engine == "fake":
        return [(settings.model_id if has_id else "fake", "")]
    if settings.model_path is None:
        return []
    path = absolute_path(settings.model_path)
    return [(settings.model_id if has_id else Path(path).name, path)]
