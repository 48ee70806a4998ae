"""uvicorn's HTTP protocol with limits on what stands before a body, and answers in OpenAI's shape.

The parser (httptools) accepts any number of headers of any length, and uvicorn answers what it
cannot parse with plain text. Requests that end here reach no route: they are logged here.
"""

import asyncio
import http
import re
import secrets
import socket
import struct
import sys
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.error_handlers import error_response
from services.protocol.errors import ErrorCode, GalenError, RequestError, TooLargeError

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 << 10
"""Names and values of all headers together; uvicorn's other parser (h11) has the same limit."""
MAX_URL_BYTES = 8 << 10
_MAX_HEAD_BYTES = 64 << 10
"""Of a head that is not complete: a single header without an end meets no other limit."""
_LINGER_S = 1.0
"""A connection is closed so long after its last answer: what still comes in would reset it."""
_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""struct linger: on, 0 s (socket(7))."""
_REQUEST_LINE = re.compile(rb"^[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/1\.[01]\r?$", re.MULTILINE)
"""A method is any token (RFC 9110, 9.1); the parser knows a closed set of them."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    head_timeout_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's, passed on
        super().__init__(*args, **kwargs)
        self.url = b""
        self._header_bytes = 0
        self._head_bytes = 0
        self._is_in_head = True
        self._has_begun = False
        self._is_refused = False
        self._chunk = b""
        self._deadline: asyncio.TimerHandle | None = None

    # --- limits ---

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._is_refused:
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        self._chunk = data
        super().data_received(data)
        self._chunk = b""
        if not self._is_in_head or self._is_refused:
            return
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(_headers_too_large())
        elif self._deadline is None and (self._has_begun or self._head_bytes):
            self._deadline = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn's own
        """A client has connected; one that says nothing is as one that says nothing more."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._forget_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._header_bytes = 0
        self._has_begun = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        if len(self.url) + len(url) > MAX_URL_BYTES:
            message = f"the URL is longer than {MAX_URL_BYTES >> 10} KiB"
            raise TooLargeError(ErrorCode.URI_TOO_LONG, message)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer of a chunked body."""
        self._header_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS or self._header_bytes > MAX_HEADER_BYTES:
            raise _headers_too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._is_in_head = self._has_begun = False
        self._forget_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _head_is_late(self) -> None:
        """A head that comes byte by byte holds a connection for nothing (slowloris)."""
        self._refuse(
            GalenError(
                ErrorCode.REQUEST_TIMEOUT,
                f"the headers did not arrive within {self.head_timeout_s:g} s",
            )
        )

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- refusals ---

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer a request that the parser, or a limit above, has refused."""
        self._refuse(_cause(sys.exception(), self._chunk))

    def _refuse(self, error: GalenError) -> None:
        self._is_refused = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison] - None before the first request
            cycle.disconnected = True  # its body will not come
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        request_id = f"chatcmpl-{secrets.token_hex(12)}"
        response = error_response(error)
        response.headers["x-request-id"] = request_id
        response.headers["connection"] = "close"
        if error.code is ErrorCode.METHOD_NOT_ALLOWED:
            response.headers["allow"] = "GET, POST"
        lines = [b"HTTP/1.1 %d %b" % (response.status_code, _phrase(response.status_code))]
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines += [b"%b: %b" % (name, value) for name, value in headers]
        self.transport.write(b"\r\n".join((*lines, b"", bytes(response.body))))
        structlog.get_logger().info(
            "request.refused",
            request_id=request_id,
            status=response.status_code,
            code=error.code.value,
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    # --- clients that do not read ---

    def on_response_complete(self) -> None:
        """A response is written; where it is the last one, a client has its time to read it."""
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(self.timeout_keep_alive, drop, self.transport)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while: close, and do not wait for a client that does not read."""
        if self.transport.get_write_buffer_size():
            drop(self.transport)
        else:
            super().timeout_keep_alive_handler()


def with_head_timeout(seconds: float) -> type[LimitedHttpProtocol]:
    """Return the protocol with a time within which a request's head has to be there."""
    return type("TimedHttpProtocol", (LimitedHttpProtocol,), {"head_timeout_s": seconds})


def drop(transport: asyncio.Transport) -> None:
    """End a connection at once with all that waits to be sent: nobody reads it.

    Without SO_LINGER the kernel would keep what it has taken, for as long as the client is there.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
    transport.abort()


def _cause(error: BaseException | None, chunk: bytes) -> GalenError:
    if error is not None and isinstance(error.__context__, GalenError):
        return error.__context__
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _REQUEST_LINE.search(chunk):
        return RequestError(ErrorCode.METHOD_NOT_ALLOWED, "this server has no such method")
    return RequestError(ErrorCode.BAD_REQUEST, "the request is not valid HTTP/1.1")


def _headers_too_large() -> TooLargeError:
    return TooLargeError(
        ErrorCode.HEADERS_TOO_LARGE,
        f"at most {MAX_HEADERS} headers of together {MAX_HEADER_BYTES >> 10} KiB are taken",
    )


def _phrase(status: int) -> bytes:
    return http.HTTPStatus(status).phrase.encode()
