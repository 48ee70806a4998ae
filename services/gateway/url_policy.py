"""Which URLs images may be fetched from, and which addresses may be dialled for them. Pure.

An operator lists hosts; whatever is not plainly one of them is refused before anything is resolved.
The URL is read once, by one pattern, and is never handed to a second parser: hosts that two parsers
read differently were the hole of CVE-2026-24779. What does *not* live here: resolving, dialling
(`fetch.py`).
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from services.protocol.errors import ErrorCode, RequestError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_URL_LENGTH = 2048
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\]"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[1-9][0-9]{{0,4}}))?"
    r"(?P<target>(?:[/?][!$-;=?-Z_a-z~\[\]|]*)?)",
    re.ASCII | re.IGNORECASE,
)
"""No user, no fragment, no backslash, no blank, nothing outside ASCII, no escape in the host."""
_RULE = re.compile(
    rf"(?:(?P<scheme>https?)://)?(?P<host>(?:\*\.)?(?:{_HOST}))(?::(?P<port>[0-9]{{1,5}}))?",
    re.ASCII | re.IGNORECASE,
)
_PORTS = {"https": 443, "http": 80}
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)

# `ipaddress.is_global` takes some of these for public ones (Python 3.11), so they are listed.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT, RFC 6598; a cloud's metadata, too
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "168.63.129.16/32",  # Azure's own wire server
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast and reserved
        "::/96",  # unspecified, loopback, and IPv4 in its oldest disguise
        "::ffff:0:0/96",
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",  # Teredo and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


_ONLY_IF_NAMED = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "168.63.129.16/32")
)
"""Metadata of clouds: a private network that happens to hold them does not open them."""
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that was ever given out of IPv6 (RFC 4291, section 2.4)."""


class HostRule(NamedTuple):
    """A host that images may come from.

    Args:
        host: in lower case; `*.example.org` is every host below example.org.
    """

    scheme: str
    host: str
    port: int

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Whether it names a host, whose name is in lower case."""
        if (scheme, port) != (self.scheme, self.port):
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
        return host == self.host


class FetchTarget(NamedTuple):
    """Where one request goes: the parts of a URL that was let through.

    Args:
        host: as it is dialled and asked for; IPv6 addresses without brackets.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, int]:
        """What a redirect must not change."""
        return self.scheme, self.port

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def read_rule(text: str) -> HostRule:
    """Return a rule such as `images.example.org`, `*.pacs.local:8443` or `http://10.0.0.5:8042`.

    Raises:
        ValueError: it is none.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None or "." not in match["host"].removeprefix("*.").strip("[]") + ".":
        raise ValueError(f"{text[:80]!r} is no host; write host, host:port or http://host:port")
    scheme = (match["scheme"] or "https").lower()
    port = int(match["port"] or _PORTS[scheme])
    host = match["host"].lower().strip("[]")
    below = host.removeprefix("*.")
    if not 0 < port < 65_536 or not _is_plain(below) or (below != host and _is_address(below)):
        raise ValueError(f"{text[:80]!r} is no host with a port")
    return HostRule(scheme, host, port)


def check_url(url: str, rules: Sequence[HostRule], param: str) -> FetchTarget:
    """Return where a URL leads; raises RequestError unless a rule names its host."""
    match = _URL.fullmatch(url) if len(url) <= _MAX_URL_LENGTH else None
    if match is not None:
        scheme, host = match["scheme"].lower(), match["host"].lower().strip("[]")
        port = int(match["port"] or _PORTS[scheme])
        is_named = any(rule.covers(scheme, host, port) for rule in rules)
        if is_named and _is_plain(host):
            target = match["target"]
            path = target if target.startswith("/") else f"/{target}"
            return FetchTarget(scheme, host, port, path)
    raise not_allowed(param)


def not_allowed(param: str) -> RequestError:
    """Return the refusal of a URL, which says nothing of what was found behind it."""
    return RequestError(
        ErrorCode.URL_NOT_ALLOWED,
        "images may not be fetched from this URL; this server fetches from hosts that its operator"
        " lists; send the image as a data: URL, or upload it",
        param=param,
    )


def may_dial(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    """Whether an address may be dialled.

    Args:
        networks: those that the operator allows though they are not public.
    """
    if any(_opens(network, address) for network in networks):
        return True
    hidden = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if hidden is not None:
        return may_dial(hidden, networks)
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not any(
        address in network for network in _NEVER_PUBLIC if network.version == address.version
    )


def _opens(network: IpNetwork, address: IpAddress) -> bool:
    if network.version != address.version or address not in network:
        return False
    special = [each for each in _ONLY_IF_NAMED if address in each]
    return not special or any(
        network.network_address in each and network.prefixlen >= each.prefixlen for each in special
    )


def _is_plain(host: str) -> bool:
    """Whether a host is a name, or an address in the one form that all readers read alike."""
    if ":" in host:
        return _is_address(host)
    if _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):  # 127.1, 0x7f.1, 2130706433, 0177.0.0.1
        return _is_address(host)
    return True


def _is_address(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False
