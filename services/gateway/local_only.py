"""Who may use files, batches and evaluations: programs on this machine, until there are keys.

A browser is a program on this machine, too, and so is a proxy: what a page of elsewhere sends
through the one, or a stranger through the other, is refused.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request

from services.protocol.errors import ErrorCode, RequestError

_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-real-ip")


def check_local(request: Request) -> None:
    """Raise RequestError unless a program on this machine asks, for itself."""
    client = request.client.host if request.client is not None else ""
    is_local = _is_loopback(client) and not any(h in request.headers for h in _OF_PROXIES)
    is_meant = _is_loopback(_host_in(f"//{request.headers.get('host', '')}"))
    origin = request.headers.get("origin")
    if is_local and is_meant and (origin is None or _is_loopback(_host_in(origin))):
        return
    raise RequestError(
        ErrorCode.LOCAL_ONLY,
        "files, batches and evaluations are open to programs on the gateway's own machine only; "
        "connect to 127.0.0.1 there",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _NAMES


def _host_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
