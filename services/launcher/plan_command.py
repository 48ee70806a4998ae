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

_WIDTH = 160


def run_plan(
    source: str, gpus: str | None, context: int | None, concurrency: int, *, as_json: bool
) -> None:
    """Print what fits.

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
    path = source if Path(source).is_dir() else "DIR"
    if as_json:
        found = [_as_dict(option, _command(option, path, shape, cards)) for option in options]
        print(json.dumps(found, indent=2))  # noqa: T201
        return
    console = Console(width=_WIDTH, highlight=False)
    context = asked.context_of(shape)
    console.print(
        f"{shape.name}: {shape.num_weights / 1e9:.2f} billion weights on {describe_cards(cards)}; "
        f"{concurrency} requests of {context} tokens asked for"
    )
    console.print(_table(options))
    fitting = {
        number: _command(option, path, shape, cards)
        for number, option in enumerate(options, start=1)
        if option.fits
    }
    if fitting:
        _print_commands(console, fitting, path)
        return
    longest = max(option.forecast.largest_context for option in options)
    shorter = f" --context {longest} or less," if longest else ""
    console.print(f"Nothing fits: take{shorter} more or larger cards, or a smaller model.")


def _command(option: Option, path: str, shape: ModelShape, cards: Sequence[Card]) -> str:
    """Return what starts the first worker; it is shown the cards that it is to use."""
    command, each = option.command(path, shape.name), option.layout.cards_per_replica
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


def _print_commands(console: Console, commands: dict[int, str], path: str) -> None:
    console.print("\nThe best comes first. To start one, with other cards for each replica:")
    for number, command in commands.items():
        console.print(f"{number:>3}  {command}", soft_wrap=True)
    if path == "DIR":
        console.print("DIR is a checkpoint of it. `galen up --model DIR` chooses by itself.")
