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
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.protocol import keys

REDIS_AWAY = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OutOfMemoryError, OSError)
"""What a command raises while Redis cannot do its work; the state of a write is then unknown."""

Argument = str | int | float | bytes


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


async def command(client: aioredis.Redis, *args: Argument) -> Any:
    """Run one command; its reply has the shape that the command gives it (hence Any)."""
    return cast("Any", await client.execute_command(*args))  # pyright: ignore[reportUnknownMemberType]


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
    """A fixed Lua script, run by EVALSHA (so that an ACL can deny EVAL) and loaded when missing."""

    def __init__(self, name: str) -> None:
        self.text = files("services.protocol").joinpath(f"scripts/{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: aioredis.Redis, key_names: Sequence[str], *args: Argument) -> Any:
        """Run the script; its reply has whatever shape the script returns (hence Any)."""
        try:
            return await self._evalsha(client, key_names, args)
        except NoScriptError:
            await client.script_load(self.text)
            return await self._evalsha(client, key_names, args)

    async def _evalsha(
        self, client: aioredis.Redis, key_names: Sequence[str], args: Sequence[Argument]
    ) -> Any:
        return await command(client, "EVALSHA", self.sha, len(key_names), *key_names, *args)


class ScriptBatcher:
    """Runs scripts for many tasks over one connection, one round trip for all that are waiting.

    While a round trip is under way the calls that arrive are collected and make up the next one, so
    that the cost of a write is shared by everything that is ready. Calls keep their order.
    """

    def __init__(self, client: aioredis.Redis) -> None:
        self._client = client
        self._waiting: list[tuple[Script, tuple[Any, ...], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    def call(
        self, script: Script, key_names: Sequence[str], *args: Argument
    ) -> "asyncio.Future[Any]":
        """Queue a script; the future gives its reply, or raises what Redis or the socket raised."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        evalsha = ("EVALSHA", script.sha, len(key_names), *key_names, *args)
        self._waiting.append((script, evalsha, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                await self._round_trip(calls)
        finally:
            self._flusher = None

    async def _round_trip(
        self, calls: list[tuple[Script, tuple[Any, ...], asyncio.Future[Any]]]
    ) -> None:
        try:
            replies = await self._execute([evalsha for _, evalsha, _ in calls])
            missing = {
                script.sha: script
                for (script, _, _), reply in zip(calls, replies, strict=True)
                if isinstance(reply, NoScriptError)
            }
            if missing:
                for script in missing.values():
                    await self._client.script_load(script.text)
                again = [i for i, r in enumerate(replies) if isinstance(r, NoScriptError)]
                retried = await self._execute([calls[i][1] for i in again])
                for i, reply in zip(again, retried, strict=True):
                    replies[i] = reply
        except (RedisError, OSError) as error:
            replies: list[Any] = [error] * len(calls)
        for (_, _, future), reply in zip(calls, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, (RedisError, OSError)):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    async def _execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for each in commands:
            pipeline.execute_command(*each)  # pyright: ignore[reportUnknownMemberType]
        return await pipeline.execute(raise_on_error=False)


def as_text(reply: bytes | str) -> str:
    """Return a reply as text."""
    return reply.decode() if isinstance(reply, bytes) else reply
