"""Where a body is parsed: in the event loop only while what has to be parsed is short."""

import gc
import json
import threading
import weakref

import pytest
from starlette.requests import Request
from starlette.types import Message

from services.gateway.body import read_json
from services.gateway.settings import GatewaySettings
from services.gateway.strict_json import CutBody
from services.gateway.threads import in_thread
from services.protocol.errors import ErrorCode, TooLargeError

DATA_URL = "data:image/png;base64," + "A" * 1_000_000


def request_of(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


@pytest.fixture
def parsing_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that parsed, in order."""
    seen: list[str] = []
    parse = CutBody.parse

    def recorded(body: CutBody) -> object:
        seen.append(threading.current_thread().name)
        return parse(body)

    monkeypatch.setattr(CutBody, "parse", recorded)
    return seen


@pytest.mark.parametrize(
    ("value", "in_loop"),
    [
        ({"a": "x" * 60_000}, True),
        ({"a": DATA_URL}, True),
        ({"a": "x" * 70_000}, False),
        ({"a": [{}] * 30_000}, False),
        ({"a": "x" * 3_000_000}, False),
    ],
    ids=["short", "image", "text", "objects", "long text"],
)
async def test_only_short_structure_is_parsed_in_the_event_loop(
    parsing_threads: list[str], value: object, in_loop: bool
) -> None:
    read = await read_json(request_of(json.dumps(value).encode()), GatewaySettings())

    assert read == value
    assert [name == threading.main_thread().name for name in parsing_threads] == [in_loop]


async def test_too_many_values_are_refused_before_any_parsing(parsing_threads: list[str]) -> None:
    body = b"[" + b"{}," * 600_000 + b"{}]"

    with pytest.raises(TooLargeError) as caught:
        await read_json(request_of(body), GatewaySettings())

    assert caught.value.code is ErrorCode.REQUEST_TOO_LARGE
    assert parsing_threads == []


async def test_what_a_thread_gave_is_freed_with_its_last_reference() -> None:
    gc.disable()
    try:
        held = await in_thread(_Traced)
        freed = weakref.ref(held)
        del held
        assert freed() is None
        error, freed = await _failed_in_thread()
        del error
        assert freed() is None
    finally:
        gc.enable()


class _Traced:
    """Something that a weak reference can watch."""


async def _failed_in_thread() -> tuple[ValueError, "weakref.ref[_Traced]"]:
    watched: list[weakref.ref[_Traced]] = []

    def work() -> None:
        local = _Traced()
        watched.append(weakref.ref(local))
        raise ValueError

    try:
        await in_thread(work)
    except ValueError as error:
        return error, watched[0]
    raise AssertionError
