"""`galen plan`: which layouts of a model fit on which cards, as a table or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from modeling.cards import Card, CardsError, cards_present, main_memory, parse_cards
from modeling.checkpoint_files import CheckpointError
from modeling.model_shape import ModelShape, UnknownModelError, read_shape
from modeling.plan_options import Asked, Option
from modeling.plan_words import (
    describe_cards,
    describe_layout,
    describe_weights,
    number_of_gb,
    verdict,
    why_too_long,
)
from modeling.planner import plan
from services.launcher.terminal import CommandError
from services.settings_guard import set_variables
from services.worker.settings import ENV_PREFIX

_WIDTH = 160
_SOME_FOLDER = "DIR"
_EXIT_NOTHING_FITS = 1
_REDIS_URL = "redis://127.0.0.1:6379/0"  # the worker's own default, to be seen and changed


def run_plan(
    source: str, gpus: str | None, context: int | None, concurrency: int, *, as_json: bool
) -> int:
    """Print what fits; returns the exit code, 1 where nothing does.

    Args:
        source: checkpoint directory, config.json or name of a preset.
        gpus: such as "2x24GB"; None: the cards of this machine, else its memory.

    Raises:
        CommandError: no such model, no such cards, or a context beyond the model's own.
    """
    try:
        cards = parse_cards(gpus) if gpus is not None else cards_present() or [main_memory()]
        shape = read_shape(source)
    except (CardsError, CheckpointError, UnknownModelError) as error:
        raise CommandError(str(error)) from error
    if context is not None and (problem := why_too_long("--context", context, shape.max_context)):
        raise CommandError(f"{shape.name}: {problem}")
    asked = Asked(context=context, concurrency=concurrency, has_vllm=True)
    options = plan(shape, cards, asked)
    path = source if Path(source).is_dir() else _SOME_FOLDER
    commands = [_command(option, path, shape, cards) for option in options]
    if as_json:
        found = [_as_dict(*pair) for pair in zip(options, commands, strict=True)]
        print(json.dumps(found, indent=2))  # noqa: T201
    else:
        console = Console(width=_WIDTH, highlight=False)
        console.print(
            f"{shape.name}: {shape.num_weights / 1e9:.2f} billion weights on "
            f"{describe_cards(cards)}; {concurrency} requests of {asked.context_of(shape)} tokens "
            "asked for"
        )
        console.print(_table(options))
        _print_advice(console, options, commands, path)
    return 0 if any(option.fits for option in options) else _EXIT_NOTHING_FITS


def _command(option: Option, path: str, shape: ModelShape, cards: Sequence[Card]) -> str:
    """Return what starts the first worker; it is shown the cards that it is to use."""
    # Where the variable says it, an option would win over it; it may hold a password, too.
    redis_url = None if set_variables([f"{ENV_PREFIX}REDIS_URL"]) else _REDIS_URL
    model_id = "-".join(shape.name.split())  # a folder's name may have spaces, a model's has none
    command = option.command(path, model_id, redis_url)
    each = option.layout.cards_per_replica
    if option.layout.is_cpu or each == len(cards):
        return command
    return f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(each)))} {command}"


def _as_dict(option: Option, command: str) -> dict[str, object]:
    return {**asdict(option), "fits": option.fits, "command": command}


def _table(options: list[Option]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    for name in ("engine", "layout", "weights"):
        table.add_column(name)
    for name in (
        "GB/card", "KV KiB/token", "step GB", "vision GB", "other GB", "longest", "at once",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for number, option in enumerate(options, start=1):
        table.add_row(str(number), *_row(option))
    return table


def _row(option: Option) -> tuple[str, ...]:
    found, layout = option.forecast, option.layout
    return (
        layout.engine,
        describe_layout(layout),
        describe_weights(layout),
        number_of_gb(found.weight_bytes),
        f"{found.kv_bytes_per_token / 1024:.0f}",
        number_of_gb(found.activation_bytes),
        number_of_gb(found.vision_bytes),
        number_of_gb(found.overhead_bytes),
        str(found.largest_context),
        str(found.concurrent),
        verdict(option),
    )


def _print_advice(
    console: Console, options: Sequence[Option], commands: Sequence[str], path: str
) -> None:
    fitting = [number for number, option in enumerate(options) if option.fits]
    if not fitting:
        longest = max(option.forecast.largest_context for option in options)
        shorter = f" --context {longest} or less," if longest else ""
        console.print(f"Nothing fits: take{shorter} more or larger cards, or a smaller model.")
        return
    console.print("\nThe best comes first. To start one, with other cards for each replica:")
    for number in fitting:
        console.print(f"{number + 1:>3}  {commands[number]}", soft_wrap=True)
    if path == _SOME_FOLDER:
        console.print(f"{path} is a checkpoint of it.")
    console.print(
        "A worker works for every `galen gateway` with the same --redis-url. `galen up --model "
        f"{path}` brings Redis and gateway along, and chooses by itself.",
        soft_wrap=True,
    )
