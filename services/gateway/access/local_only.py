"""Where there are no keys: what is open to programs on this machine only, and who that is.

A browser is a program on this machine, too, and so is a proxy: what a page of elsewhere sends
through the one, or a stranger through the other, is refused.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from services.protocol.errors import AccessError, ErrorCode

_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_OF_PROXIES = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, for programs on it alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _NAMES


def check_local(scope: Scope) -> None:
    """Raise AccessError unless a program on this machine asks, for itself."""
    headers = Headers(scope=scope)
    client = (scope.get("client") or ("", 0))[0]
    is_meant = is_loopback(_host_in(f"//{headers.get('host', '')}"))
    origin = headers.get("origin")
    is_ours = origin is None or is_loopback(_host_in(origin))
    if not (is_loopback(client) and is_meant and is_ours):
        raise _local_only()
    if any(name in _OF_PROXIES for name, _ in scope["headers"]):
        raise _local_only()


def _local_only() -> AccessError:
    return AccessError(
        ErrorCode.LOCAL_ONLY,
        "without keys this is open to programs on the gateway's own machine only: connect to "
        "127.0.0.1 there, or let the operator make a key (galen keys create)",
    )


def _host_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
