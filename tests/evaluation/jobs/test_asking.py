"""What is waited out, what is tried again, and what is an error at once."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from evaluation.jobs.asking import Answered, GatewayClient
from tests.support.stub_endpoint import StubEndpoint, completion

BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "q"}]}).encode()


def refusal(status: int, code: str, **headers: str) -> Response:
    return JSONResponse({"error": {"message": "m", "code": code}}, status, headers)


def ask(
    decide: Callable[[Mapping[str, Any], int], Response],
    timeout_s: float = 20.0,
    finally_: Callable[[], object] = bool,
) -> tuple[Answered, int]:
    """Ask once; returns what came, and how often the endpoint was asked for it."""

    async def run(url: str) -> Answered:
        async with GatewayClient(url, 4, timeout_s, "token") as client:
            return await client.ask(lambda: BODY)

    with StubEndpoint(decide) as endpoint:
        answered = asyncio.run(run(endpoint.url))
        finally_()
        return answered, len(endpoint.asked)


def after(num_refusals: int, refused: Response) -> Callable[[Mapping[str, Any], int], Response]:
    return lambda _, number: refused if number < num_refusals else completion("yes")


def test_an_answer_is_kept_whole() -> None:
    answered, num_asked = ask(lambda *_: completion("yes"))

    assert answered.is_good
    assert answered.body is not None
    assert answered.body["choices"][0]["message"]["content"] == "yes"
    assert num_asked == 1


def test_what_a_header_says_of_images_comes_with_the_answer() -> None:
    def told(*_: object) -> Response:
        answer = completion("yes")
        answer.headers["x-galen-preprocess"] = "grey@1/ab"
        return answer

    assert ask(told)[0].preprocess == "grey@1/ab"
    assert ask(lambda *_: completion("yes"))[0].preprocess == ""


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "overloaded"),
        (503, "backend_unavailable"),
        (503, "shutting_down"),
        (503, "model_unloaded"),
        (404, "model_not_found"),
        (429, "rate_limit_exceeded"),
    ],
)
def test_what_says_nothing_of_the_request_is_waited_out(status: int, code: str) -> None:
    waiting = refusal(status, code, **{"retry-after": "0.01"})

    answered, num_asked = ask(after(7, waiting))

    assert answered.is_good
    assert num_asked == 8


@pytest.mark.parametrize(
    ("status", "code"), [(503, "worker_lost"), (500, "internal_error"), (500, "input_expired")]
)
def test_what_may_pass_is_tried_three_times(status: int, code: str) -> None:
    assert ask(after(2, refusal(status, code)))[0].is_good

    answered, num_asked = ask(lambda *_: refusal(status, code))

    assert (answered.status, num_asked) == (status, 3)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_value"), (500, "request_poisoned"), (504, "timeout"), (413, "too_large")],
)
def test_what_the_request_is_to_blame_for_is_told_at_once(status: int, code: str) -> None:
    answered, num_asked = ask(lambda *_: refusal(status, code))

    assert (answered.status, num_asked) == (status, 1)
    assert answered.body == {"error": {"message": "m", "code": code}}


@pytest.mark.parametrize("content", ["<html>hello</html>", "[1]", '"text"', ""])
def test_an_answer_that_is_none_is_an_error_and_no_answer(content: str) -> None:
    answered, num_asked = ask(lambda *_: Response(content, 200))

    assert not answered.is_good
    assert answered.error is not None
    assert answered.error[0] == "invalid_response"
    assert num_asked == 3


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_its_gateway_is_waited_out(status: int) -> None:
    answered, num_asked = ask(
        after(5, Response("<h1>Bad Gateway</h1>", status, {"retry-after": "0"}))
    )

    assert answered.is_good
    assert num_asked == 6


def test_silence_ends() -> None:
    is_over = threading.Event()

    def decide(_: Mapping[str, Any], __: int) -> Response:
        is_over.wait(10)
        return completion("too late")

    answered, _ = ask(decide, timeout_s=0.2, finally_=is_over.set)

    assert answered.error is not None
    assert answered.error[0] == "timeout"


def test_a_gateway_that_dies_of_a_request_is_not_killed_for_ever() -> None:
    def decide(_: Mapping[str, Any], __: int) -> Response:
        return Response(status_code=200, headers={"content-length": "9"})  # and no byte more

    answered, num_asked = ask(decide)

    assert answered.error is not None
    assert answered.error[0] == "connection_lost"
    assert num_asked == 10


def test_a_gateway_that_is_away_is_waited_for() -> None:
    with StubEndpoint(lambda *_: completion("no")) as gone:
        pass

    async def run() -> Answered:
        async with GatewayClient(gone.url, 4, 20.0, "token") as client:
            return await client.ask(lambda: BODY)

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(asyncio.run, run())
        with pytest.raises(FutureTimeoutError):
            asking.result(0.5)
        with StubEndpoint(lambda *_: completion("yes"), port=gone.port):
            assert asking.result(20).is_good
