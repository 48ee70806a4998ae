"""What `galen train --plan` is computed from: a recipe, cards, and the data where they are there.

What does *not* live here: the arithmetic (`plan.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modeling.cards import Card, CardsError, cards_present, main_memory
from modeling.model_shape import read_shape
from training.config import TrainConfig, read_recipe, recipe_names
from training.data_statistics import DataStatistics
from training.plan import TrainingPlan, plan_training, refuse_impossible

_NO_DATA = Path("-")
_STAND_INS = (f"data.files=['{_NO_DATA}']", "output.folder=planned")


def read_planned(recipe: str, settings: Sequence[str]) -> TrainConfig:
    """Return a recipe for a plan: one of ours may be without data and output.

    Raises:
        TrainingError: as `read_recipe` says.
    """
    own = _STAND_INS if recipe in recipe_names() else ()
    return read_recipe(recipe, [*own, *settings])


def cards_here(num_cards: int | None, visible: str | None) -> list[Card]:
    """Return the cards that a run takes on this machine, as free as they are.

    Args:
        num_cards: None: all of them.
        visible: what CUDA_VISIBLE_DEVICES says.

    Raises:
        CardsError: there are fewer.
    """
    present = cards_present(visible)
    if not present:
        memory, processes = main_memory(), num_cards or 1
        return [replace(memory, free_bytes=memory.free_bytes // processes)] * processes
    if num_cards is not None and num_cards > len(present):
        raise CardsError(
            f"--cards {num_cards}: this machine has {len(present)}; take as many, or leave it out"
        )
    return present[:num_cards]


def forecast(
    config: TrainConfig, cards: Sequence[Card], scratch: Path | None = None
) -> TrainingPlan:
    """Return the plan of a recipe; its data are counted where they and the checkpoint are there.

    Args:
        scratch: where counting leaves its files; None: where the run does, which goes on from them.

    Raises:
        TrainingError: the data or the checkpoint cannot be trained on, or not on these cards.
        CheckpointError, UnknownModelError: `model.path` is neither a checkpoint nor a preset.
    """
    shape = read_shape(str(config.model.path))
    refuse_impossible(config, len(cards))
    return plan_training(config, shape, cards, _counted(config, scratch))


def missing_files(config: TrainConfig) -> list[Path]:
    """Return the files of data that were named and are not there."""
    return [file for file in config.data.files if file != _NO_DATA and not file.is_file()]


def _counted(config: TrainConfig, scratch: Path | None) -> DataStatistics | None:
    if not config.model.path.is_dir() or not all(file.is_file() for file in config.data.files):
        return None
    # They load transformers, which a plan of a preset does without.
    from training.audit import audit  # noqa: PLC0415
    from training.processor import open_processing  # noqa: PLC0415
    from training.run import run_folder  # noqa: PLC0415

    has_template = config.model.conversation is not None
    processing = open_processing(config.model.path, has_template=has_template)
    return audit(config, processing, scratch or run_folder(config)).statistics()
