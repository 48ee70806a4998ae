"""A real HTTP server on the loopback that misbehaves as told; it keeps what it was asked."""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """What is sent.

    Args:
        body: in the pieces in which it is written.
        length: of Content-Length; None: the body's; a larger one is a cut connection.
    """

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


Behave = Callable[[str, int], Reply]
"""Of a path, and how often it was asked for before."""


class MisbehavingServer:
    """Use it as a context manager."""

    def __init__(self, behave: Behave) -> None:
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.most_at_once = 0
        self.done = threading.Event()
        """Set at the end: a reply that waits must wait for it."""
        self._behave = behave
        self._now = 0
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.done.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply_to(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            number = self.asked[handler.path]
            self.asked[handler.path] += 1
            self.agents.add(handler.headers.get("User-Agent", ""))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            _send(handler, self._behave(handler.path, number))
        finally:
            with self._lock:
                self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none of ours."""


def _handler_of(server: MisbehavingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.reply_to(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
    if reply.length is None and not isinstance(reply.body, bytes):
        pieces = list(pieces)
    length = reply.length if reply.length is not None else sum(map(len, pieces))
    handler.send_response(reply.status)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    sent = 0
    for piece in pieces:
        handler.wfile.write(piece)
        sent += len(piece)
    if sent < length:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
