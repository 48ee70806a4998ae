"""A worker without some of its protections: python -m tests.support.sabotage.worker SWITCH..."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from services.worker import main as worker_main
from tests.support.sabotage.switches import throw

_ENGINE = "services.worker.engine_process"
_spawn = subprocess.Popen


def _spawn_sabotaged(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Start what the product starts, but our engine process in place of its own."""
    assert _ENGINE in command
    at = command.index(_ENGINE)
    command = [*command[:at], "tests.support.sabotage.engine", *sys.argv[1:], *command[at + 1 :]]
    return _spawn(command, **options)


if __name__ == "__main__":
    throw(sys.argv[1:])
    worker_main.subprocess.Popen = _spawn_sabotaged  # pyright: ignore[reportAttributeAccessIssue]
    worker_main.main()
