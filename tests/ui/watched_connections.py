"""Runs a module of ours and notes which connections its process opens, and which names it looks up.

    python -m tests.ui.watched_connections FILE MODULE

Noted are Python's own sockets, by an audit hook, and those of uvloop, which has its own. What it
cannot see: a library in C that opens sockets by itself.
"""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_OF_UVLOOP = ("create_connection", "create_datagram_endpoint", "getaddrinfo")


def seen_in(file: Path) -> set[str]:
    """Return the addresses and names that a watched process has asked for so far."""
    return set(file.read_text("utf-8").splitlines())


def main() -> None:
    """Run the module that the arguments name."""
    file, module = sys.argv[1:]
    sys.argv = [module]
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(where: object) -> None:
        os.write(descriptor, f"{where!r}\n".encode())

    def hear(event: str, details: tuple[Any, ...]) -> None:
        if event in _EVENTS:
            note(details[1:2] if event.startswith(("socket.connect", "socket.sendto")) else details)

    sys.addaudithook(hear)
    for name in _OF_UVLOOP:
        setattr(uvloop.Loop, name, _noted(getattr(uvloop.Loop, name), note))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _noted(original: Any, note: Callable[[object], None]) -> Any:
    async def call(loop: Any, *args: Any, **options: Any) -> Any:
        place = [each for each in args if isinstance(each, str | int)]
        note((*place, *(options[key] for key in ("host", "port") if key in options)))
        return await original(loop, *args, **options)

    return call


if __name__ == "__main__":
    main()
