import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from services.gateway.access.parts import make_access
from services.gateway.error_handlers import (
    STATUS_BY_CODE,
    error_response,
    install_error_handlers,
    status_and_type,
)
from services.gateway.memory import MemoryGuard
from services.gateway.metrics import GatewayMetrics
from services.gateway.middleware import FrontDoor
from services.gateway.settings import GatewaySettings
from services.protocol.errors import (
    ErrorCode,
    GalenError,
    OverloadedError,
    RequestError,
    error_from_code,
)
from services.store.settings import StoreSettings
from services.tracing.spans import NoTracing

SECRET = "Canary-4711"


# -------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_status_a_type_and_a_class_that_agree(code: ErrorCode) -> None:
    status, kind = status_and_type(code)

    of_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    good = {400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 429, 431, 500, 503, 504}
    assert status in good
    assert kind == of_status.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
    assert isinstance(error_from_code(code, "x"), RequestError) == (status < 500 and status != 429)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_makes_a_whole_response(code: ErrorCode) -> None:
    response = error_response(error_from_code(code, "what was wrong", "n"))

    status, kind = status_and_type(code)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "what was wrong", "type": kind, "param": "n", "code": code.value}
    }


def test_table_holds_exceptions_from_400_only() -> None:
    assert all(entry != (400, "invalid_request_error") for entry in STATUS_BY_CODE.values())


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, "1"), (0.2, "1"), (1.0, "1"), (2.6, "3"), (10.0, "10")]
)
def test_retry_after_is_a_whole_number_of_at_least_one_second(
    seconds: float | None, header: str | None
) -> None:
    error = OverloadedError(ErrorCode.OVERLOADED, "full", retry_after_s=seconds)

    assert error_response(error).headers.get("retry-after") == header


def test_clients_are_told_not_to_repeat_what_would_do_harm() -> None:
    told = {
        code for code in ErrorCode
        if error_response(error_from_code(code, "x")).headers.get("x-should-retry") == "false"
    }  # fmt: skip

    assert told == {
        ErrorCode.REQUEST_POISONED,
        ErrorCode.WORKER_LOST,
        ErrorCode.TIMEOUT,
        ErrorCode.PROTOCOL_MISMATCH,
        ErrorCode.MODEL_UNLOADED,
    }


def test_connection_ends_where_the_body_was_not_read() -> None:
    closing = {
        code for code in ErrorCode
        if error_response(error_from_code(code, "x")).headers.get("connection") == "close"
    }  # fmt: skip

    assert closing == {ErrorCode.REQUEST_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT}


# ----------------------------------------------------------------------------- whole responses


async def fail_with_a_bug(_request: Request) -> Response:
    raise KeyError(SECRET)


async def fail_as_known(_request: Request) -> Response:
    raise GalenError(ErrorCode.TIMEOUT, "too late")


async def fail_as_cancelled(_request: Request) -> Response:
    raise asyncio.CancelledError


async def fail_within_the_stream(_request: Request) -> Response:
    async def body():
        yield b"data: 1\n\n"
        raise KeyError(SECRET)

    return StreamingResponse(body())


FAILURES = {
    "bug": fail_with_a_bug,
    "known": fail_as_known,
    "cancelled": fail_as_cancelled,
    "stream": fail_within_the_stream,
}


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics()


@pytest.fixture
def door(metrics: GatewayMetrics) -> FrontDoor:
    """Each failure twice: behind the framework's layers and before them."""
    app = FastAPI()
    install_error_handlers(app)
    for name, handler in FAILURES.items():
        app.add_route(f"/framework/{name}", handler)
    direct = {("GET", f"/direct/{name}"): handler for name, handler in FAILURES.items()}
    direct["GET", "/v1/responses"] = fail_as_known
    access = make_access(GatewaySettings(auth="off"), StoreSettings())
    return FrontDoor(app, direct, metrics, MemoryGuard(0, 0.8, 0.92), access, NoTracing())


async def get(door: FrontDoor, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(door)
    async with httpx.AsyncClient(transport=transport, base_url="http://galen") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize("way", ["framework", "direct"])
async def test_bug_is_a_500_with_an_id_that_says_nothing_and_is_logged_once(
    door: FrontDoor, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    response = await get(door, f"/{way}/bug")

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"].startswith("chatcmpl-")
    assert SECRET not in response.text
    output = "".join(capsys.readouterr())
    assert SECRET not in output
    assert output.count("request.broken") == 1
    assert "KeyError" in output


@pytest.mark.parametrize("way", ["framework", "direct"])
async def test_known_error_is_its_status_and_is_counted(
    door: FrontDoor, metrics: GatewayMetrics, way: str
) -> None:
    response = await get(door, f"/{way}/known")

    assert response.status_code == 504
    assert response.headers["x-request-id"]
    counted = 'galen_gateway_failed_requests_total{code="timeout",generates="no"} 1.0'
    assert counted in generate_latest(metrics.registry).decode()


async def test_error_of_a_route_that_generates_is_counted_as_such(
    door: FrontDoor, metrics: GatewayMetrics
) -> None:
    await get(door, "/v1/responses")

    counted = 'galen_gateway_failed_requests_total{code="timeout",generates="yes"} 1.0'
    assert counted in generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("way", ["framework", "direct"])
async def test_bug_within_a_stream_does_not_reach_the_server_s_log(
    door: FrontDoor, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/{way}/stream"
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    await door(scope, receive, send)

    assert [message.get("more_body") for message in sent] == [
        None,
        True,
    ]  # cut, so seen as an error
    output = "".join(capsys.readouterr())
    assert SECRET not in output
    assert output.count("request.broken") == 1


async def test_request_that_the_server_cancels_is_told_that_it_shuts_down(door: FrontDoor) -> None:
    response = await get(door, "/direct/cancelled")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")


async def test_unknown_route_and_method_have_openai_s_shape(door: FrontDoor) -> None:
    response = await get(door, "/nowhere")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert response.headers["x-request-id"]


async def test_host_that_would_change_the_url_is_refused(door: FrontDoor) -> None:
    response = await get(door, "/direct/known", host="a/?x=")

    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


async def test_ids_of_responses_differ(door: FrontDoor) -> None:
    ids = {(await get(door, "/nowhere")).headers["x-request-id"] for _ in range(5)}

    assert len(ids) == 5
