"""How a command line of ours ends: a user's mistake is one line, never a trace. No torch."""

import os
import sys
from collections.abc import Sequence

import typer

from modeling.checkpoint_files import CheckpointError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def run_tool(
    app: typer.Typer,
    name: str,
    arguments: Sequence[str],
    *,
    mistakes: tuple[type[Exception], ...] = (CheckpointError,),
    extra: str = "worker",
    when_stopped: str | None = None,
) -> None:
    """Run a command line and end the process.

    Args:
        mistakes: errors whose text is the line.
        extra: what to install where a package is missing.
        when_stopped: what to say after Ctrl-C.
    """
    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED and when_stopped:  # Typer's own way to end at Ctrl-C
            say(f"stopped; {when_stopped}")
        sys.exit(code)
    except typer.TyperException as error:
        if message := error.format_message():  # no arguments at all: the help is printed
            say(f"{message} (see --help)")
        sys.exit(error.exit_code)
    except mistakes as error:
        say(str(error))
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_EXIT_BROKEN_PIPE)
    except OSError as error:  # a name too long, a folder that may not be read, a disk that is gone
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"{where}{error.strerror or error or type(error).__name__}; correct it and start again")
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        say(f"{name} needs {error.name}: pip install 'galen[{extra}]'")
        sys.exit(EXIT_FAILED)


def with_default(app: typer.Typer, default: str, arguments: Sequence[str]) -> list[str]:
    """Return a command line in which what begins with no sub-command is the default one's."""
    names = {command.name for command in app.registered_commands} | {"-h", "--help"}
    if not arguments or arguments[0] in names:
        return list(arguments)
    return [default, *arguments]


def say(message: str) -> None:
    """Print one line on stderr, whatever a message held."""
    typer.echo(f"galen: {' '.join(message.split())}", err=True)
