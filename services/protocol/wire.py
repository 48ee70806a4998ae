"""A Redis connection for the path of every token: pipelined, one socket write per loop turn.

redis-py's asyncio client starts a task for each write and packs commands in Python, which made its
connection a fifth of the gateway's work on a request (docs/benchmarks.md). This one keeps hiredis,
its parser and packer, and leaves out all else: no pool, no retries, no RESP3. What is not on that
path (images, tests, tools) uses redis-py (`connection.py`).

Any number of tasks may call at once; replies come in the order of the calls. A connection that
breaks fails what is under way with a ConnectionError; the next call opens a new one.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Argument = str | int | float | bytes

_CONNECT_TIMEOUT_S = 1.0
_HOST, _PORT = "localhost", 6379  # where a URL names none
_ERRORS: dict[str, type[Exception]] = {
    "NOSCRIPT": NoScriptError,
    "LOADING": BusyLoadingError,
    "READONLY": ReadOnlyError,
    "OOM": OutOfMemoryError,
    "MISCONF": OutOfMemoryError,  # the disk is full: like a full memory, for us
    "WRONGPASS": AuthenticationError,
    "NOAUTH": AuthenticationError,
    **dict.fromkeys(
        ("BUSY", "UNBLOCKED", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"),
        RedisConnectionError,
    ),
}
"""By the first word of an error reply. Anything else is a mistake of ours."""
_INSIDE_SCRIPT = re.compile(r"[-: ]-?(LOADING|READONLY|OOM|MISCONF|MASTERDOWN|NOREPLICAS)\b")
"""Redis 6.2 wraps what a script meets: `ERR Error running script …: -OOM command not allowed …`."""


class RedisWire:
    """One connection to `url` (redis://, rediss:// or unix://), opened by the first call.

    Args:
        timeout_s: longest wait for a reply; a blocking command needs its own wire with more.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None
        self._is_closed = False

    @property
    def address(self) -> str:
        """Where it connects to, for people: never a user or a password."""
        options = self._options
        if "path" in options:
            return f"unix://{options['path']}"
        scheme = "rediss" if options.get("connection_class") is SSLConnection else "redis"
        host = str(options.get("host", _HOST))
        where = f"[{host}]" if ":" in host else host
        return f"{scheme}://{where}:{options.get('port', _PORT)}/{options.get('db', 0)}"

    def execute_command(self, *args: Argument) -> Awaitable[Any]:
        """Run one command; the awaitable gives its reply, in RESP2's plain types (hence Any).

        Raises:
            RedisConnectionError, RedisTimeoutError: Redis is away; whether it ran is unknown.
            ResponseError: Redis refused the command.
        """
        link = self._link
        if link is not None and not link.is_lost:
            return link.send(args)
        return self._open_and_send(args)

    async def aclose(self) -> None:
        """Close for good; calls under way fail."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._link is not None:
            self._link.abort(RedisConnectionError("the connection was closed"))
            await self._link.closed.wait()

    async def _open_and_send(self, args: tuple[Argument, ...]) -> Any:  # noqa: ANN401
        if self._is_closed:
            raise RedisConnectionError("the connection was closed")
        if self._link is not None and not self._link.is_lost:  # opened since this was called
            return await self._link.send(args)
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        link = await asyncio.shield(self._opening)
        return await link.send(args)

    def _opened(self, opening: "asyncio.Task[_Link]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._link = opening.result()

    async def _open(self) -> "_Link":
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                link = await self._connect()
                try:
                    await self._greet(link)
                except BaseException:
                    link.abort(RedisConnectionError("the connection was refused"))
                    raise
        except TimeoutError:
            raise RedisTimeoutError("no connection in time") from None
        except OSError as error:
            raise RedisConnectionError(f"no connection ({type(error).__name__})") from None
        return link

    async def _connect(self) -> "_Link":
        options = self._options
        loop = asyncio.get_running_loop()
        if "path" in options:
            _, link = await loop.create_unix_connection(self._new_link, options["path"])
        else:
            host, port = options.get("host", _HOST), options.get("port", _PORT)
            _, link = await loop.create_connection(self._new_link, host, port, ssl=_tls(options))
        return link

    async def _greet(self, link: "_Link") -> None:
        options = self._options
        if password := options.get("password"):
            user = options.get("username")
            await link.send(("AUTH", user, password) if user else ("AUTH", password))
        if database := options.get("db"):
            await link.send(("SELECT", database))

    def _new_link(self) -> "_Link":
        return _Link(self._timeout_s)


class _Link(asyncio.Protocol):
    """One open socket: commands out, replies in, matched by their order."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._reader = hiredis.Reader(replyError=_reply_error)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False
        self.closed = asyncio.Event()

    def send(self, args: tuple[Argument, ...]) -> "asyncio.Future[Any]":
        """Queue a command; everything of one loop turn leaves in one write."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.is_lost:
            future.set_exception(RedisConnectionError("the connection was lost"))
            return future
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(_pack(args))
        self._waiting.append((future, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_oldest)
        return future

    def abort(self, error: Exception) -> None:
        """Drop the socket; everything under way fails with `error`."""
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                future, _ = self._waiting.popleft()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort(RedisConnectionError("the peer does not speak Redis's protocol"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        cause = type(exc).__name__ if exc is not None else "closed by Redis"
        self.abort(RedisConnectionError(f"the connection was lost ({cause})"))
        self.closed.set()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and not self.is_lost:
            self._transport.write(b"".join(unsent))

    def _check_oldest(self) -> None:
        """Give the connection up when its oldest command has waited too long."""
        self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0][1] + self._timeout_s
        if self._loop.time() >= due:
            self.abort(RedisTimeoutError("no reply in time"))
        else:
            self._timer = self._loop.call_at(due, self._check_oldest)


_pack = cast(  # its stub allows one argument only
    "Callable[[tuple[Argument, ...]], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType]
)


def _reply_error(text: str) -> Exception:
    """Return the exception for an error reply; its text comes from Redis, not from a user."""
    kind = text.partition(" ")[0]
    if kind == "ERR":
        if wrapped := _INSIDE_SCRIPT.search(text):
            kind = wrapped[1]
        elif "max number of clients reached" in text:
            kind = "BUSY"
    return _ERRORS.get(kind, ResponseError)(text)


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context that a rediss:// URL asks for."""
    if options.get("connection_class") is not SSLConnection:
        return None
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
