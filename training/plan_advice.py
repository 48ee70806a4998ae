"""What to do where a training run does not fit: settings and numbers of cards, tried in order."""

import json
from collections.abc import Callable, Iterable, Mapping

from training.config import TrainConfig
from training.training_memory import TrainingMemory

MemoryOf = Callable[[TrainConfig, int], TrainingMemory]
"""Of a recipe on a number of cards."""

_Change = Mapping[str, str | float | bool | None]
_MOST_CARDS = 64  # of `--gpus`
_ADAPTERS: _Change = {  # with the rates of LLaVA-1.5's adapters (recipes/stage2_lora.yaml)
    "train.language_model": "lora",
    "optimizer.learning_rate": 2e-4,
    "optimizer.projector_learning_rate": 2e-5,
}


def find_advice(config: TrainConfig, num_cards: int, usable: int, memory_of: MemoryOf) -> str:
    """Return one line: settings that would make it fit, or how many more such cards would."""

    def fits(changes: Iterable[_Change]) -> bool:
        return memory_of(_changed(config, changes), num_cards).peak <= usable

    ways: list[str] = []
    possible = _changes(config, num_cards)
    enough = [n for n in range(1, len(possible) + 1) if fits(possible[:n])]
    if enough:
        needed = possible[: enough[0]]
        for change in needed[:-1]:
            fewer = [other for other in needed if other is not change]
            if change is not _ADAPTERS and fits(fewer):
                needed = fewer
        ways.append(" ".join(_in_words(change) for change in needed))
    sharded = _changed(config, [{"devices.sharding": "full"}])
    more = num_cards * 2
    while more <= _MOST_CARDS and memory_of(sharded, more).peak > usable:
        more *= 2
    if more <= _MOST_CARDS:
        also = "" if config.devices.sharding == "full" else " with --set devices.sharding=full"
        ways.append(f"{more} such cards{also}")
    return f"take {', or '.join(ways)}" if ways else "take larger cards or a smaller model"


def _changes(config: TrainConfig, num_cards: int) -> list[_Change]:
    """Return what can be changed, what alters least first; each comes on top of those before it."""
    row, changes = config.batch.row_tokens, list[_Change]()
    if config.batch.rows > 1:
        changes.append({"batch.rows": 1})
    if not config.model.gradient_checkpointing:
        changes.append({"model.gradient_checkpointing": True})
    if config.batch.layout == "packed" and row is not None and row > config.data.max_length:
        changes.append({"batch.row_tokens": None})
    if config.optimizer.kind == "adamw" and num_cards == 1:
        changes.append({"optimizer.kind": "adamw_8bit"})
    if config.train.language_model == "full":
        changes.append(_ADAPTERS)
    has_adapters = config.train.language_model == "lora" or _ADAPTERS in changes
    if config.model.quantisation is None and config.model.precision == "bf16" and has_adapters:
        changes.append({"model.quantisation": "nf4"})
    return changes


def _changed(config: TrainConfig, changes: Iterable[_Change]) -> TrainConfig:
    for key, value in (item for change in changes for item in change.items()):
        part, name = key.split(".")
        new = getattr(config, part).model_copy(update={name: value})
        config = config.model_copy(update={part: new})
    return config


def _in_words(change: _Change) -> str:
    written = {key: json.dumps(value).strip('"') for key, value in change.items()}
    return " ".join(f"--set {key}={value}" for key, value in written.items())
