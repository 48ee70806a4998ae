"""Connections to Redis: every socket has a timeout, and no command is repeated behind our back.

Repeating is our own decision, place by place (a script that is safe to repeat says so).
Reconnecting is automatic: a broken connection is dropped by the pool and the next command opens a
new one; loops that wait for Redis to return use `Backoff`, whose full jitter keeps processes from
arriving at once.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.protocol import keys
from services.protocol.wire import Argument, RedisWire

REDIS_AWAY = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError, OSError)
"""What a command raises while Redis cannot do its work; the state of a write is then unknown."""


def connect(url: str, *, blocking: bool = False, max_connections: int = 16) -> aioredis.Redis:
    """Return a client for `url` (redis://, rediss:// or unix://); connects with the first command.

    Args:
        url: the address; a password in it is never logged.
        blocking: for commands that block up to `keys.BLOCK_S` (their socket waits longer).
        max_connections: most sockets of this client.
    """
    timeout_s = keys.BLOCK_S + keys.SOCKET_MARGIN_S if blocking else keys.COMMAND_TIMEOUT_S
    return aioredis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=1.0,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
    )


def open_wire(url: str, *, blocking: bool = False) -> RedisWire:
    """Return the lean connection that queue and replies use; arguments as for `connect`."""
    timeout_s = keys.BLOCK_S + keys.SOCKET_MARGIN_S if blocking else keys.COMMAND_TIMEOUT_S
    return RedisWire(url, timeout_s=timeout_s)


class Backoff:
    """Waits of full jitter (between 0 and a ceiling that doubles from `first_s` to `most_s`)."""

    def __init__(self, first_s: float = 0.1, most_s: float = 1.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._ceiling_s = first_s

    async def wait(self) -> None:
        """Sleep for the next wait."""
        await asyncio.sleep(self.next_s())

    def next_s(self) -> float:
        """Return the next wait in seconds and raise the ceiling."""
        wait_s = random.uniform(0, self._ceiling_s)  # noqa: S311 - jitter, not a secret
        self._ceiling_s = min(self._ceiling_s * 2, self._most_s)
        return wait_s

    def reset(self) -> None:
        """Begin again at `first_s`: the last try succeeded."""
        self._ceiling_s = self._first_s


class Script:
    """A fixed Lua script, run by EVALSHA (so that an ACL can deny EVAL) and loaded when missing.

    Args:
        names: of its files; functions that others use, too, stand in those before the last.
    """

    def __init__(self, *names: str) -> None:
        folder = files("services.protocol") / "scripts"
        self.text = "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, wire: RedisWire, key_names: Sequence[str], *args: Argument) -> Any:
        """Run the script; its reply has whatever shape the script returns (hence Any)."""
        try:
            return await wire.execute_command(
                "EVALSHA", self.sha, len(key_names), *key_names, *args
            )
        except NoScriptError:
            await wire.execute_command("SCRIPT", "LOAD", self.text)
            return await wire.execute_command(
                "EVALSHA", self.sha, len(key_names), *key_names, *args
            )


def as_text(reply: bytes | str) -> str:
    """Return a reply as text."""
    return reply.decode() if isinstance(reply, bytes) else reply
