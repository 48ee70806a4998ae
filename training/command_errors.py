"""How `galen train` ends: a user's mistake is one line, never a trace. No torch."""

import os
import sys
from collections.abc import Sequence

import typer

from modeling.cards import CardsError
from modeling.checkpoint_files import CheckpointError
from modeling.model_shape import UnknownModelError
from training.errors import TrainingError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def run_app(app: typer.Typer, name: str, arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False) or 0
        sys.exit(code)
    except typer.TyperException as error:
        if message := error.format_message():  # no arguments at all: the help is printed
            say(f"{message} (see --help)")
        sys.exit(error.exit_code)
    except (TrainingError, CheckpointError, CardsError, UnknownModelError) as error:
        say(str(error))
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_EXIT_BROKEN_PIPE)
    except OSError as error:  # a folder that may not be read, a disk that is gone
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"{where}{error.strerror or error or type(error).__name__}; correct it and start again")
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        say(f"galen train needs {error.name}: pip install 'galen[training]'")
        sys.exit(EXIT_FAILED)


def say(message: str) -> None:
    """Print one line on stderr, whatever a message held."""
    typer.echo(f"galen: {' '.join(message.split())}", err=True)
