"""The command line of training: `galen train` runs this module.

    python -m training.command RECIPE --set key=value ...

What does *not* live here: the training itself (`run.py`), which is imported when it is needed, so
that help and mistakes come at once.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeling.cards import CardsError
from modeling.checkpoint_files import CheckpointError
from modeling.model_shape import UnknownModelError
from modeling.tool_errors import EXIT_FAILED, EXIT_INTERRUPTED, run_tool, say, with_default
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.launching import Node

_RUN = "run"
_AS_RANK = "--as-one-of-several"
_MOST_CARDS = 64
_DEFAULT_PORT = 29_500  # torchrun's own

app = typer.Typer(
    name="train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train a LLaVA by a recipe: `galen train RECIPE` is short for `galen train run RECIPE`. "
    "A run that was stopped goes on when the same command is given again.",
)

_Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="One that `galen train recipes` lists, or a file NAME.yaml.",
        show_default=False,
    ),
]
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")]


@app.command(_RUN)
def run_command(
    recipe: _Recipe,
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of the recipe; may be given repeatedly."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it takes and how long; train nothing.")
    ] = False,
    gpus: Annotated[
        str | None,
        typer.Option(help="With --plan: cards such as 1x24GB or 2xH100; default: those here."),
    ] = None,
    cards: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_CARDS, help="Cards of this machine; default: all."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew; a stopped run's state is removed.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train together.")] = 1,
    node_rank: Annotated[int, typer.Option(min=0, help="Which of them this one is.")] = 0,
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]", help="Address of machine 0, the same on all."),
    ] = None,
    is_rank: Annotated[bool, typer.Option(_AS_RANK, hidden=True)] = False,
    visible: Annotated[str | None, typer.Option(envvar="CUDA_VISIBLE_DEVICES", hidden=True)] = None,
) -> None:
    r"""Train (the word `run` may be left out), or say with --plan what that would take.

    Exit code 0: done, or it fits; 1: an error, or it does not fit; 2: misuse; 130: stopped.

    For example:

    galen train stage2_qlora --set model.path=llava-med-v1.5-7b --plan --gpus 1x24GB

    galen train stage1_align --set model.path=./llava-med-v15 --set data.files=\[pairs.json]
    --set data.image_folder=images --set output.folder=./aligned
    """
    if gpus is not None and not plan:
        raise typer.BadParameter("--gpus is for --plan; a run takes the cards that are here")
    node = _node(nodes, node_rank, rendezvous)
    if plan:
        raise typer.Exit(_print_plan(recipe, settings or [], gpus, cards, nodes, visible))
    from training.config import read_recipe

    config = read_recipe(recipe, settings or [])
    if is_rank:
        _train_as_rank(config, fresh=fresh)
        return
    own = [recipe, *(word for setting in settings or [] for word in ("--set", setting))]
    try:
        _train(config, own, cards, node, visible, fresh=fresh)
    except KeyboardInterrupt:
        say(_stopped(config))
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command("recipes")
def recipes_command() -> None:
    """List the recipes that come with Galen."""
    from training.config import RECIPES, recipe_names

    width = max(map(len, recipe_names()))
    for name in recipe_names():
        first, *_ = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        print(f"{name:<{width}}  {first.removeprefix('# ')}")


@app.command("show")
def show_command(recipe: _Recipe) -> None:
    """Print a recipe with its comments, to be copied and changed.

    For example:

    galen train show stage2_lora > mine.yaml
    """
    from training.config import RECIPES, recipe_names
    from training.errors import TrainingError

    if recipe not in recipe_names():
        raise TrainingError(f"no recipe {recipe!r}; take one of {', '.join(recipe_names())}")
    sys.stdout.write((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))


@app.command("merge-lora")
def merge_lora_command(
    *,
    base: Annotated[Path, typer.Option(metavar="DIR", help="What the adapter was trained on.")],
    adapter: Annotated[
        Path, typer.Option(metavar="DIR", help="Adapter in PEFT's layout, such as OUT/adapter.")
    ],
    out: _Out,
) -> None:
    """Add a LoRA adapter to its base, as one checkpoint; needs no memory for the model.

    A projector.safetensors in the adapter's folder, as a training writes it, is put in too.

    For example:

    galen train merge-lora --base ./llava-med-v15 --adapter ./tuned/adapter --out ./merged
    """
    from training.merging import merge_lora

    merge_lora(base, adapter, out)
    print(f"{out} is done: galen up --model {out}")


@app.command("export")
def export_command(
    *,
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the run, which ends in .training.")
    ],
    out: _Out,
    step: Annotated[
        int | None, typer.Option(min=1, help="Of which checkpoint; default: the newest.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The base, where it lies elsewhere now.")
    ] = None,
) -> None:
    """Make a finished checkpoint of a run that was stopped early.

    For example:

    galen train export --run ./tuned.training --out ./early
    """
    from training.exporting import export

    taken = export(run, out, step, base)
    print(f"{out} is done, from step {taken}: galen up --model {out}")


def _print_plan(
    recipe: str,
    settings: Sequence[str],
    gpus: str | None,
    cards: int | None,
    nodes: int,
    visible: str | None,
) -> int:
    from modeling.cards import parse_cards
    from training.forecast import cards_here, forecast, missing_files, read_planned
    from training.plan import describe

    config = read_planned(recipe, settings)
    planned = parse_cards(gpus) if gpus is not None else cards_here(cards, visible) * nodes
    if missing := missing_files(config):
        say(f"{missing[0]} is not there, so nothing is counted")
    with tempfile.TemporaryDirectory(prefix="galen-plan-") as scratch:
        found = forecast(config, planned, Path(scratch))
    print(describe(found))
    return 0 if found.fits else EXIT_FAILED


def _train(
    config: "TrainConfig",
    own: Sequence[str],
    cards: int | None,
    node: "Node | None",
    visible: str | None,
    *,
    fresh: bool,
) -> None:
    from training.forecast import cards_here, forecast

    here = cards_here(cards, visible)
    if len(here) == 1 and node is None:
        from training.launching import train_here

        train_here(config, fresh=fresh)
        return
    from modeling.checkpoints.output_folder import refuse_existing
    from training.errors import TrainingError
    from training.launching import launch
    from training.plan import why_not

    # What can be wrong is found here, by one process: several say it badly.
    refuse_existing(config.output.folder)
    if node is None or node.number == 0:
        found = forecast(config, here * (1 if node is None else node.num_nodes))
        if not found.fits:
            raise TrainingError(why_not(found))
    arguments = [_RUN, *own, _AS_RANK, *(["--fresh"] if fresh else [])]
    launch(arguments, len(here), node)


def _train_as_rank(config: "TrainConfig", *, fresh: bool) -> None:
    from modeling.checkpoint_files import CheckpointError
    from training.errors import TrainingError
    from training.launching import train_as_rank

    try:
        train_as_rank(config, fresh=fresh)
    except (TrainingError, CheckpointError):  # the launcher says it
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _node(nodes: int, node_rank: int, rendezvous: str | None) -> "Node | None":
    if nodes == 1:
        if rendezvous is not None or node_rank:
            raise typer.BadParameter("--node-rank and --rendezvous are for --nodes 2 and more")
        return None
    if rendezvous is None:
        raise typer.BadParameter("--nodes needs --rendezvous HOST:PORT, an address of machine 0")
    if node_rank >= nodes:
        raise typer.BadParameter(f"--node-rank {node_rank}: from 0 to {nodes - 1}")
    from training.launching import Node

    host, _, port = rendezvous.partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65_536)):
        raise typer.BadParameter(f"--rendezvous {rendezvous!r}: write HOST or HOST:PORT")
    return Node(nodes, node_rank, host, int(port or _DEFAULT_PORT))


def _stopped(config: "TrainConfig") -> str:
    from training.run import run_folder
    from training.run_state import checkpoints_in, step_of

    found = checkpoints_in(run_folder(config))
    if found:
        return f"stopped; the same command goes on behind step {step_of(found[-1])}"
    return (
        "stopped before a checkpoint was written (output.save_every_steps); the same command "
        "begins anew"
    )


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    mistakes = (TrainingError, CheckpointError, CardsError, UnknownModelError)
    given = with_default(app, _RUN, arguments)
    run_tool(app, "galen train", given, mistakes=mistakes, extra="training")


if __name__ == "__main__":
    main(sys.argv[1:])
