"""Why a worker does not start, in the words of its reader: a person, or a program.

What does *not* live here: what is refused (`preflight.py`, `engines/`).
"""

import sys

import structlog

_log = structlog.get_logger()


def tell_refusal(cause: str) -> None:
    """Write one plain line where a person reads along, else the log line `engine.start.refused`."""
    if sys.stderr.isatty():
        sys.stderr.write(f"galen: {cause}\n")
    else:
        _log.error("engine.start.refused", cause=cause)
