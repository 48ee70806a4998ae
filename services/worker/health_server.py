"""What a worker tells over HTTP: /metrics (Prometheus), /readyz (it claims requests).

It answers from a thread of the engine process. So it is no measure of life: an engine that is busy
in one long step may be slow to answer, and whether it hangs is its parent's to judge (`main.py`).
"""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    make_wsgi_app,  # pyright: ignore[reportUnknownVariableType] - it has half a type
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_JSON = ("Content-Type", "application/json")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a client that is slow to read ends with the process


class _SilentHandler(WSGIRequestHandler):
    timeout = 10  # of a client that sends nothing

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: a probe comes every few seconds."""


def serve_health(
    host: str, port: int, registry: CollectorRegistry, is_ready: Callable[[], bool]
) -> int:
    """Answer from now on, in a thread that ends with the process; returns the port.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = make_server(
        host, port, _application(registry, is_ready), _Server, handler_class=_SilentHandler
    )
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server.server_port


def _application(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> "WSGIApplication":
    metrics = cast("WSGIApplication", make_wsgi_app(registry))

    def answer(environment: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environment.get("PATH_INFO") != "/readyz":
            return metrics(environment, start)
        if is_ready():
            start("200 OK", [_JSON])
            return [b'{"status":"ready"}']
        start("503 Service Unavailable", [_JSON])
        return [b'{"status":"not ready"}']

    return answer
