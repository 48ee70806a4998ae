"""Whether what is sent to an address leaves this machine.

What does *not* live here: sending.
"""

import ipaddress
from urllib.parse import urlsplit

_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def host_of(url: str) -> str | None:
    """Return the host of an http or https address; None: it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts.hostname if parts.scheme in {"http", "https"} else None


def is_this_machine(host: str) -> bool:
    """Whether a host is a name or an address of the loopback; other names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _NAMES
