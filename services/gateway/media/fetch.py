"""Fetches images from hosts that the operator allows: the only place that dials for a client.

Each hop is checked against the rules, its name is resolved once, every address that it has must be
one that may be dialled, and that address is dialled. No cookies, no credentials, no proxy of the
environment, no content encodings. What does *not* live here: which URLs may be fetched
(`url_policy.py`), what came (`image_format.py`, the decoder child).
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urljoin

import httpcore
import structlog

from services.gateway.url_policy import (
    FetchTarget,
    HostRule,
    IpNetwork,
    check_url,
    may_dial,
    not_allowed,
)
from services.protocol.errors import ErrorCode, RequestError

_log = structlog.get_logger()

_MOST_HOPS = 3
_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolver")
"""Of their own: names that are slow to resolve must not hold up the threads of everything else."""
_CONNECT_S = 5.0
_TOTAL_S = 10.0
_AT_ONCE = 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ABSOLUTE = re.compile(r"//|[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_RELATIVE = re.compile(r"/(?!/)[!$-;=?-Z_a-z~\[\]|]*", re.ASCII)


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What an operator allows.

    Args:
        networks: private ones, whose addresses may be dialled for the hosts.
        max_bytes: of an image.
    """

    rules: Sequence[HostRule] = ()
    networks: Sequence[IpNetwork] = ()
    max_bytes: int = 20 * 1024 * 1024


class _ForbiddenAddressError(Exception):
    """A name leads to an address that may not be dialled."""


class ImageFetcher:
    """One per gateway.

    Args:
        tls: who is trusted; None: the authorities that the machine trusts.
        resolve: gives the addresses of a name; None: as the machine does.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._policy = policy
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=_AT_ONCE,
            max_keepalive_connections=0,  # each fetch resolves and checks for itself
            network_backend=_CheckedBackend(policy.networks, resolve or _resolve),
        )

    @property
    def is_on(self) -> bool:
        """Whether any host is allowed."""
        return bool(self._policy.rules)

    async def close(self) -> None:
        """Drop what is open."""
        await self._pool.aclose()

    async def fetch(self, url: str, param: str) -> bytes:
        """Return what is behind a URL.

        Raises:
            RequestError: it is not allowed, or nothing good came from there in time.
        """
        target = check_url(url, self._policy.rules, param)
        try:
            async with self._places, asyncio.timeout(_TOTAL_S):
                for _ in range(_MOST_HOPS + 1):
                    found = await self._ask(target)
                    if isinstance(found, bytes):
                        return found
                    target = self._next(target, found, param)
        except _ForbiddenAddressError:
            raise not_allowed(param) from None
        except TimeoutError:
            raise _failed(f"nothing whole came within {_TOTAL_S:g} s", param) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            raise _failed("the host does not answer as it should", param) from None
        except _BadAnswerError as error:
            raise _failed(str(error), param) from None
        raise _failed(f"more than {_MOST_HOPS} redirects", param)

    def _next(self, target: FetchTarget, location: str, param: str) -> FetchTarget:
        """Return where a redirect leads: checked like the first URL, with its scheme and port."""
        if not _ABSOLUTE.match(location):
            path = urljoin(target.path, location)
            if _RELATIVE.fullmatch(path):
                return target._replace(path=path)
            raise not_allowed(param)
        following = check_url(location, self._policy.rules, param)
        if following.origin != target.origin:
            raise not_allowed(param)
        return following

    async def _ask(self, target: FetchTarget) -> bytes | str:
        """Return the body of an answer, or where it redirects to."""
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        headers = [
            ("Host", target.authority),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "galen"),
        ]
        timeouts = {"connect": _CONNECT_S, "read": _TOTAL_S, "write": _CONNECT_S, "pool": _TOTAL_S}
        async with self._pool.stream(
            "GET", url, headers=headers, extensions={"timeout": timeouts}
        ) as response:
            if response.status in _REDIRECTS:
                return _header(response, b"location")
            if response.status != HTTPStatus.OK:
                raise _BadAnswerError(f"it answers with status {response.status}")
            return await self._read(response)

    async def _read(self, response: httpcore.Response) -> bytes:
        most = self._policy.max_bytes
        if _header(response, b"content-encoding").lower() not in ("", "identity"):
            raise _BadAnswerError("it is sent with a content encoding, which is not taken")
        declared = _header(response, b"content-length")
        if declared.isdigit() and int(declared) > most:
            raise _BadAnswerError(f"it has more than the {most} bytes that are taken")
        body = bytearray()
        async for piece in response.aiter_stream():
            body += piece
            if len(body) > most:
                raise _BadAnswerError(f"it has more than the {most} bytes that are taken")
        return bytes(body)


class _BadAnswerError(Exception):
    """What came is not to be used; the message is for the client."""


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, and dials an address of it that may be dialled."""

    def __init__(self, networks: Sequence[IpNetwork], resolve: Resolve) -> None:
        self._networks = networks
        self._resolve = resolve
        self._backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Dial the first address that answers; raises where any may not be dialled."""
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError("no address")
        for text in addresses:
            if not _may_dial(text, self._networks):
                _log.warning("image.fetch.address.refused")
                raise _ForbiddenAddressError
        problem: Exception = OSError("no address")
        for text in addresses:
            try:
                return await self._backend.connect_tcp(
                    text, port, timeout, local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                problem = error
        raise problem


def _may_dial(text: str, networks: Sequence[IpNetwork]) -> bool:
    try:
        return may_dial(ipaddress.ip_address(text), networks) and "%" not in text
    except ValueError:
        return False


async def _resolve(host: str, port: int) -> Sequence[str]:
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, ask)
    return [str(entry[4][0]) for entry in found]


def _header(response: httpcore.Response, name: bytes) -> str:
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("latin-1")
    return ""


def _failed(why: str, param: str) -> RequestError:
    return RequestError(
        ErrorCode.IMAGE_FETCH_FAILED, f"the image cannot be fetched: {why}", param=param
    )
