"""Sub-commands that need torch, or draw data: this process becomes the tool.

The launcher itself never loads what they need, nor do the options stand here: each tool has its
own, and prints its own help.
"""

import os
import sys
from collections.abc import Sequence

import typer

_PASS_EVERYTHING_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

tools_app = typer.Typer()
data_app = typer.Typer(no_args_is_help=True)
datagen_app = typer.Typer(no_args_is_help=True)


@tools_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Turn LLaVA-Med's checkpoints into ones that every engine serves, and back."""
    _become("modeling.checkpoints.convert_command", context.args)


@tools_app.command("inspect", context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def inspect_checkpoint(context: typer.Context) -> None:
    """Say what a checkpoint is, and what would be wrong when it is served."""
    _become("modeling.checkpoints.inspect_command", context.args)


@tools_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a model by a recipe; say what that would take; merge adapters."""
    _become("training.command", context.args)


@tools_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Ask a model a benchmark's questions; score, report and compare answers."""
    _become("evaluation.command", context.args)


@data_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def phantoms(context: typer.Context) -> None:
    """Draw synthetic scans with known truth, and questions about them."""
    _become("datagen.phantoms.command", context.args)


@data_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def prepare(context: typer.Context) -> None:
    """Turn VQA-RAD, SLAKE or PathVQA, as published, into what evaluation and training read."""
    _become("evaluation.prepare_command", context.args)


@data_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def download(context: typer.Context) -> None:
    """Fetch the images that a list names, out of their articles' archives."""
    _become("datagen.download.command", context.args)


@data_app.command("inspect", context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def inspect_data(context: typer.Context) -> None:
    """Say what a file of data is, count what it holds, and list what is wrong with it."""
    _become("datagen.inspect_command", context.args)


@data_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def captions(context: typer.Context) -> None:
    """Turn a folder of images and a table of captions into figures to make instructions from."""
    _become("datagen.captions.command", context.args)


@datagen_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def instruct(context: typer.Context) -> None:
    """Have a language model write conversations about figures from their captions."""
    _become("datagen.instruct.command", context.args)


@datagen_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def postprocess(context: typer.Context) -> None:
    """Clean what a teacher wrote, and write it as training reads it."""
    _become("datagen.postprocess.command", context.args)


@datagen_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def stats(context: typer.Context) -> None:
    """Draw what a file of conversations is made of; show some with their images."""
    _become("datagen.stats.command", context.args)


def _become(module: str, arguments: Sequence[str]) -> None:
    sys.stdout.flush()
    # -P: a folder named as one of our modules, where the user stands, is not ours
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - our own module
