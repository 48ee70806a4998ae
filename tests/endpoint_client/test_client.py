"""What our side of an endpoint does when the other side is full, slow, broken or gone."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from services.endpoint_client import client as client_module
from services.endpoint_client.client import Endpoint, EndpointClient, EndpointError
from tests.support.stub_endpoint import StubEndpoint, completion, full

ASKED = [{"role": "user", "content": "SECRET question"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries of a broken server are short here."""
    monkeypatch.setattr(client_module, "_FIRST_PAUSE_S", 0.01)


def ask(url: str, *, times: int = 1, at_once: int = 4, **endpoint: Any) -> list[str]:
    async def all_of_them() -> list[str]:
        async with EndpointClient(Endpoint(url, "stub", **endpoint), at_once) as client:
            replies = await asyncio.gather(*(client.complete(ASKED, {}) for _ in range(times)))
        return [reply.text for reply in replies]

    return asyncio.run(all_of_them())


def why(url: str, **endpoint: Any) -> EndpointError:
    with pytest.raises(EndpointError) as failed:
        ask(url, **endpoint)
    assert "SECRET" not in str(failed.value)
    assert "\n" not in str(failed.value)
    return failed.value


def test_a_refusal_is_waited_out_as_long_as_the_server_says():
    def decide(body: Mapping[str, Any], number: int) -> Response:
        return full("1") if number == 0 else completion("fine")

    with StubEndpoint(decide) as stub:
        started_s = time.monotonic()
        assert ask(stub.url) == ["fine"]
        assert 1.0 <= time.monotonic() - started_s < 5.0
        assert len(stub.asked) == 2


@pytest.mark.parametrize("zone", ["-0000", "GMT", "+0200"])
def test_a_date_to_come_back_at_may_have_any_zone(zone: str):
    date = f"Wed, 25 Nov 2015 10:00:00 {zone}"
    with StubEndpoint(lambda body, number: full(date) if number == 0 else completion("x")) as stub:
        assert ask(stub.url) == ["x"]


def test_an_account_with_nothing_left_ends_all():
    def decide(body: Mapping[str, Any], number: int) -> Response:
        return JSONResponse({"error": {"message": "x", "code": "insufficient_quota"}}, 429)

    with StubEndpoint(decide) as stub:
        assert why(stub.url).is_final
        assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_fewer_are_sent_at_once_after_a_refusal_and_all_are_answered(status: int):
    refused = 0

    def decide(body: Mapping[str, Any], number: int) -> Response:
        nonlocal refused
        if stub._now > 2:
            refused += 1
            return full("0", status)
        return completion(str(number))

    with StubEndpoint(decide) as stub:
        answers = ask(stub.url, times=60, at_once=16)
    assert len(answers) == 60
    # Sixteen at first; without a slower pace each answer would cost several refusals.
    assert refused < 60


@pytest.mark.parametrize(
    "broken",
    [
        lambda: JSONResponse({"error": {"message": "x"}}, 500),
        lambda: HTMLResponse("<h1>proxy</h1>"),
        lambda: JSONResponse({"choices": []}),
        lambda: Response(b"{", media_type="application/json"),
    ],
)
def test_a_broken_answer_is_tried_again_a_few_times(broken: Any):
    with StubEndpoint(lambda body, number: broken() if number < 2 else completion("x")) as stub:
        assert ask(stub.url) == ["x"]
        assert len(stub.asked) == 3

    with StubEndpoint(lambda body, number: broken()) as stub:
        error = why(stub.url)
        assert not error.is_final
        assert len(stub.asked) == 4


def test_what_is_wrong_with_the_request_is_not_tried_again():
    def decide(body: Mapping[str, Any], number: int) -> Response:
        return JSONResponse({"error": {"message": "SECRET", "code": "image_too_large"}}, 400)

    with StubEndpoint(decide) as stub:
        error = why(stub.url)
    assert "HTTP 400, image_too_large" in str(error)
    assert not error.is_final
    assert len(stub.asked) == 1


@pytest.mark.parametrize(("status", "said"), [(401, "does not take this key"), (404, "no model")])
def test_a_wrong_key_or_model_ends_all(status: int, said: str):
    decide = lambda body, number: JSONResponse({"error": {"message": "no"}}, status)  # noqa: E731
    with StubEndpoint(decide) as stub:
        error = why(stub.url)
    assert error.is_final
    assert said in str(error)


def test_nobody_there_ends_all():
    error = why("http://127.0.0.1:1/v1", timeout_s=2.0)
    assert error.is_final
    assert "cannot be reached" in str(error)


def test_an_answer_that_never_comes_is_given_up():
    over = threading.Event()

    def decide(body: Mapping[str, Any], number: int) -> Response:
        over.wait(30)
        return completion("late")

    with StubEndpoint(decide) as stub:
        error = why(stub.url, timeout_s=0.2)
        over.set()
    assert "did not answer within 0.2 s" in str(error)
    assert not error.is_final


def test_a_server_that_stays_full_is_given_up_in_the_end():
    with StubEndpoint(lambda body, number: full("0")) as stub:
        error = why(stub.url, refusals_s=0.3)
    assert "HTTP 429, rate_limited" in str(error)


def refused(field: str, code: str) -> Response:
    error = {"message": f"SECRET {field}", "param": field, "code": code}
    return JSONResponse({"error": error}, 400)


def test_a_model_that_wants_the_new_name_of_max_tokens_gets_it_from_then_on():
    def decide(body: Mapping[str, Any], number: int) -> Response:
        if "max_tokens" in body:
            return refused("max_tokens", "unsupported_parameter")
        return completion(str(body["max_completion_tokens"]))

    async def twice(url: str) -> list[str]:
        async with EndpointClient(Endpoint(url, "stub"), 1) as client:
            return [(await client.complete(ASKED, {"max_tokens": n})).text for n in (7, 8)]

    with StubEndpoint(decide) as stub:
        assert asyncio.run(twice(stub.url)) == ["7", "8"]
        assert len(stub.asked) == 3


@pytest.mark.parametrize("code", ["unsupported_value", "unsupported_parameter"])
def test_a_field_that_a_model_never_takes_ends_all_and_names_the_option(code: str):
    with StubEndpoint(lambda body, number: refused("temperature", code)) as stub:
        error = why(stub.url)
        assert len(stub.asked) == 1
    assert error.is_final
    assert f"does not take this temperature (HTTP 400, {code})" in str(error)
    assert "--temperature" in str(error)


def test_endpoint_that_was_there_is_waited_for_while_it_starts_again(
    monkeypatch: pytest.MonkeyPatch,
):
    stub = StubEndpoint(lambda body, n: completion("first"))
    stub.__enter__()
    again = StubEndpoint(lambda body, n: completion("again"), port=stub.port)

    def pause(tries: int) -> float:
        if tries == client_module._TRIES + 1:  # later than a stranger would be given up
            starting = threading.Thread(target=again.__enter__)
            starting.start()
            starting.join()
        return 0.0

    async def before_and_after() -> list[str]:
        async with EndpointClient(Endpoint(stub.url, "stub"), 1) as client:
            first = await client.complete(ASKED, {})
            await asyncio.to_thread(stub.__exit__, None, None, None)
            monkeypatch.setattr(client_module, "_pause_s", pause)
            return [first.text, (await client.complete(ASKED, {})).text]

    assert asyncio.run(before_and_after()) == ["first", "again"]
    again.__exit__(None, None, None)
