"""Requests that are bad before any JSON is read (rows 1 to 15 of the bad-input catalogue)."""

import json
import re
import socket

import httpx
import pytest

from tests.end_to_end.bad_requests import GOOD
from tests.end_to_end.stack import RunningStack
from tests.end_to_end.test_bad_input import CHAT, JSON_TYPE, check_error_shape, post, work_done

pytestmark = pytest.mark.e2e

LIMIT_BYTES = 200_000  # of a body, on the narrow stack
ANSWER_LIMIT_S = 10.0


def exchange(port: int, request: bytes) -> tuple[int, str]:
    """Send bytes as they are on a connection of their own; returns status and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S) as connection:
        connection.sendall(request)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, str]:
    """Return status and body, once the body is complete or the connection closed."""
    received = b""
    while True:
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            break
        try:
            chunk = connection.recv(65_536)
        except ConnectionResetError:
            break
        if not chunk:
            break
        received += chunk
    status = re.match(rb"HTTP/1.1 (\d+)", received)
    assert status, f"no answer: {received[:200]!r}"
    return int(status[1]), body.decode()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection (waits for it)."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(headers or ("Host: localhost",)), "", ""]
    return "\r\n".join(lines).encode()


# ------------------------------------------------------------------------- routes and methods


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/moderations",
        "/admin",
        "/healthz/",
        "/v1/chat/completions/",
        "//",
        "//evil.example/x",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_1_unknown_path(http: httpx.Client, path: str) -> None:
    response = http.get(httpx.URL(http.base_url).copy_with(raw_path=path.encode()))

    error = check_error_shape(response)
    assert (response.status_code, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/models/%2e%2e", "/v1/models/%2e%2e%2f%2e%2e", "/v1/models/a/b"]
)
def test_15_path_of_a_model_stays_a_name(http: httpx.Client, path: str) -> None:
    response = http.get(httpx.URL(http.base_url).copy_with(raw_path=path.encode()))

    error = check_error_shape(response)
    assert (response.status_code, error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("PROPFIND", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/fake-vlm", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_2_3_known_path_with_another_method(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = http.request(method, path)

    error = check_error_shape(response)
    answered = (response.status_code, error["type"], error["code"])
    assert answered == (405, "invalid_request_error", "method_not_allowed")
    assert response.headers["allow"] == allowed


MANY_HEADERS = [f"x-{i}: 1" for i in range(101)]


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (head("FOO", CHAT), 405, "method_not_allowed"),
        (head("_private", CHAT), 405, "method_not_allowed"),
        (head("GET", "@evil"), 400, "bad_request"),
        (head("GET", "/\u00e9"), 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
        (head("GET", "/healthz", "bad header"), 400, "bad_request"),
        (head("GET", "/healthz", *MANY_HEADERS), 431, "request_header_fields_too_large"),
        (head("GET", "/healthz", f"x: {'y' * 17_000}"), 431, "request_header_fields_too_large"),
        (head("GET", "/healthz", f"{'x' * 17_000}: y"), 431, "request_header_fields_too_large"),
        (
            b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 1_000_000,
            431,
            "request_header_fields_too_large",
        ),
        (head("GET", "/" + "x" * 9_000), 414, "uri_too_long"),
        (b"GET /" + b"x" * 1_000_000, 414, "uri_too_long"),
    ],
    ids=[
        "FOO", "_private", "@evil", "not ASCII", "TLS", "version", "no colon", "many", "long value",
        "long name", "endless header", "long URL", "endless URL",
    ],
)  # fmt: skip
def test_3_15_what_is_no_request_is_refused_in_openai_s_shape_and_the_connection_ends(
    fake_stack: RunningStack, http: httpx.Client, request_head: bytes, status: int, code: str
) -> None:
    address = ("127.0.0.1", fake_stack.port)
    with socket.create_connection(address, timeout=ANSWER_LIMIT_S) as connection:
        connection.sendall(request_head)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))

    lines, _, body = answer.partition(b"\r\n\r\n")
    parsed = httpx.Response(
        int(lines.split()[1]),
        headers=dict(line.split(": ", 1) for line in lines.decode().split("\r\n")[1:]),
        content=body,
    )
    error = check_error_shape(parsed)
    assert (parsed.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert parsed.headers["connection"] == "close"
    assert post(http, GOOD).status_code == 200


def test_as_many_headers_as_allowed_are_taken(fake_stack: RunningStack) -> None:
    headers = ("Host: [::1]", *MANY_HEADERS[:97], f"y: {'y' * 10_000}", "Connection: keep-alive")

    for path in ("/healthz", "/healthz?" + "x" * 8_000):
        assert exchange(fake_stack.port, head("GET", path, *headers))[0] == 200


def test_bad_request_behind_a_running_stream_does_not_write_into_it(
    fake_stack: RunningStack,
) -> None:
    question = json.dumps(
        {"model": "fake-vlm", "stream": True,
         "messages": [{"role": "user", "content": "[[n=50 d=50]]"}]}
    ).encode()  # fmt: skip
    headers = ("Host: [::1]", "Content-Type: application/json", f"Content-Length: {len(question)}")
    with socket.create_connection(("127.0.0.1", fake_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers) + question)
        received = connection.recv(65_536)
        connection.sendall(b"no http at all\r\n\r\n")
        received += b"".join(iter(lambda: connection.recv(65_536), b""))

    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_that_would_load_from_elsewhere_are_not_there(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404
    assert http.get("/openapi.json").status_code == 200


# -------------------------------------------------------------------------------- media types


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (4, None),
        (5, "text/plain"),
        (6, "multipart/form-data; boundary=x"),
        (6, "application/jsonp"),
    ],
)
def test_4_5_6_other_media_types(
    fake_stack: RunningStack, http: httpx.Client, row: int, kind: str | None
) -> None:
    before = work_done(fake_stack)
    response = http.post(CHAT, content=GOOD, headers={"content-type": kind} if kind else {})

    error = check_error_shape(response)
    assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
    assert work_done(fake_stack) == before


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_spelt_as_http_allows(http: httpx.Client, kind: str) -> None:
    assert http.post(CHAT, content=GOOD, headers={"content-type": kind}).status_code == 200


# -------------------------------------------------------------------------------------- sizes


def test_7_declared_length_over_the_limit_is_refused_before_the_body(
    fake_stack: RunningStack,
) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {33 << 20}")

    with socket.create_connection(("127.0.0.1", fake_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers))
        status, body = read_answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
        assert is_closed(connection)


def test_8_chunked_body_that_grows_past_the_limit_is_refused_on_the_way(
    narrow_stack: RunningStack,
) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"

    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers))
        for _ in range(LIMIT_BYTES // 0x2000 + 1):
            connection.sendall(chunk)
        status, body = read_answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
        assert is_closed(connection)


def test_9_body_that_never_comes_is_a_time_out(narrow_stack: RunningStack) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", "Content-Length: 500")

    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers) + GOOD[:20])
        status, body = read_answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert is_closed(connection)


@pytest.mark.parametrize(
    "before", [b"", head("GET", "/healthz")], ids=["first request", "next request"]
)
@pytest.mark.parametrize(
    "begun", [b"POST /v1/chat", b"GET /healthz HTTP/1.1\r\nx-a: b\r\n", b"\r\n"]
)
def test_head_that_never_ends_is_a_time_out(
    narrow_stack: RunningStack, before: bytes, begun: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        if before:
            connection.sendall(before)
            assert read_answer(connection)[0] == 200
        connection.sendall(begun)
        status, body = read_answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert is_closed(connection)


def test_head_that_comes_in_pieces_is_read(narrow_stack: RunningStack) -> None:
    last = head("GET", "/healthz", "Host: localhost", "Connection: close")
    request = head("GET", "/healthz") * 2 + last
    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        for place in range(len(request)):
            connection.sendall(request[place : place + 1])
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.count(b"HTTP/1.1 200") == 3


def test_9_client_that_leaves_within_its_body_is_no_fault_of_ours(
    narrow_stack: RunningStack,
) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", "Content-Length: 500")
    broken = narrow_stack.logs()["g0"].count("request.broken")

    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers) + GOOD[:20])
    with httpx.Client(base_url=narrow_stack.base_url) as client:
        assert post(client, GOOD).status_code == 200

    assert narrow_stack.logs()["g0"].count("request.broken") == broken


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/v1/models"])
def test_16_a_thousand_ranges_are_passed_over(http: httpx.Client, path: str) -> None:
    ranges = ",".join(f"{start}-{start}" for start in range(1000))
    whole = http.get(path)

    durations: list[float] = []
    for _ in range(5):
        response = http.get(path, headers={"range": f"bytes={ranges}"})
        durations.append(response.elapsed.total_seconds())
        assert (response.status_code, len(response.content)) == (200, len(whole.content))
        assert "content-range" not in response.headers

    assert min(durations) < 0.1  # the goal is 0.01 s on a machine that does nothing else


def test_17_a_client_that_waits_for_100_and_then_sends_nothing_is_a_time_out(
    narrow_stack: RunningStack,
) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", "Content-Length: 500")

    with socket.create_connection(("127.0.0.1", narrow_stack.port), timeout=5) as connection:
        connection.sendall(head("POST", CHAT, *headers, "Expect: 100-continue"))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        status, body = read_answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert is_closed(connection)


# ---------------------------------------------------------------------------------- smuggling


@pytest.mark.parametrize(
    "lengths",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: -5",),
        ("Content-Length: five",),
    ],
)
def test_10_length_with_two_meanings_is_refused(
    fake_stack: RunningStack, lengths: tuple[str, ...]
) -> None:
    headers = ("Host: localhost", "Content-Type: application/json", *lengths)

    status, body = exchange(fake_stack.port, head("POST", CHAT, *headers) + b"0\r\n\r\n")

    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "bad_request")


@pytest.mark.parametrize("host", ["a/?x=", "a b", "user@evil.example", "a#b", "x" * 300])
def test_14_host_that_would_change_the_url_is_refused(fake_stack: RunningStack, host: str) -> None:
    status, body = exchange(fake_stack.port, head("GET", "/v1/models", f"Host: {host}"))

    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_ordinary_host_is_taken(fake_stack: RunningStack, host: str) -> None:
    status, _ = exchange(fake_stack.port, head("GET", "/v1/models", f"Host: {host}"))

    assert status == 200


def test_unknown_lane_is_refused_by_its_name(http: httpx.Client) -> None:
    response = http.post(CHAT, content=GOOD, headers={**JSON_TYPE, "x-galen-lane": "express"})

    error = check_error_shape(response)
    assert (response.status_code, error["code"]) == (400, "invalid_value")
    assert error["param"] == "x-galen-lane"
    for lane in ("interactive", "batch"):
        taken = http.post(CHAT, content=GOOD, headers={**JSON_TYPE, "x-galen-lane": lane})
        assert taken.status_code == 200
