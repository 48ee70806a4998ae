"""Where `galen up` listens: a free port, and the address that this machine's programs ask there."""

import errno
import socket

from services.launcher.terminal import CommandError

_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - no listening


def local_url(host: str, port: int, path: str) -> str:
    """Return the URL of what listens there."""
    host = _ANY_ADDRESS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{path}"


def free_port(host: str, port: int, option: str = "--port") -> int:
    """Return the port to listen on (0: any free one); raises CommandError where it is not free.

    Args:
        option: that chooses it.
    """
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} is in use; choose another with {option}"
        else:
            message = f"cannot listen on {host} port {port}: {error.strerror}"
        raise CommandError(message) from error
