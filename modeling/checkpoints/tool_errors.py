"""How a command line of ours ends: a user's mistake is one line, never a trace. No torch."""

import sys

import typer

from modeling.checkpoint_files import CheckpointError

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def run_tool(app: typer.Typer, name: str) -> None:
    """Run a command line and end the process."""
    try:
        code = app(prog_name=name, standalone_mode=False) or 0
        if code == _EXIT_INTERRUPTED:  # Typer's own way to end at Ctrl-C
            _say("stopped; a conversion goes on when the same command is run again")
        sys.exit(code)
    except typer.TyperException as error:
        if message := error.format_message():  # no arguments at all: the help is printed
            _say(f"{' '.join(message.split())} (see --help)")
        sys.exit(error.exit_code)
    except CheckpointError as error:
        _say(str(error))
        sys.exit(_EXIT_FAILED)
    except OSError as error:  # a name too long, a folder that may not be read, a disk that is gone
        where = "" if error.filename is None else f"{error.filename}: "
        _say(f"{where}{error.strerror or type(error).__name__}; correct the path or its rights")
        sys.exit(_EXIT_FAILED)
    except ModuleNotFoundError as error:
        _say(f"{name} needs {error.name}: pip install 'galen[worker]'")
        sys.exit(_EXIT_FAILED)


def _say(message: str) -> None:
    print(f"galen: {message}", file=sys.stderr)
