"""The unmodified OpenAI client when things go wrong: its exception classes, time-outs, crowds."""

import asyncio
import itertools
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.end_to_end.chat import numbered, read_stream, user
from tests.end_to_end.conftest import FAKE_MODEL, TINY_MODEL
from tests.end_to_end.stack import RunningStack
from tests.support.waiting import eventually, wait_until

pytestmark = pytest.mark.e2e

ABORT_LIMIT_S = 1.0
FOR_EVER = user("[[n=1 t=600000]]")
FOR_EVER_AFTER_A_TOKEN = user("[[n=2 d=600000]]")


# ------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"n": 9}, "invalid_value", "n"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"extra_body": {"best_of": 2}}, "unsupported_parameter", "best_of"),
        ({"verbosity": "low"}, "unsupported_parameter", "verbosity"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_request_error_says_what_and_where(
    fake_client: OpenAI, options: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    question: dict[str, Any] = {
        "model": FAKE_MODEL,
        "messages": [user("hello")],
        "stream": stream,
        **options,
    }

    with pytest.raises(openai.BadRequestError) as caught:
        fake_client.chat.completions.create(**question)

    error = caught.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert error.request_id


def test_unknown_model_is_not_found_error(fake_client: OpenAI) -> None:
    attempts = (
        lambda: fake_client.chat.completions.create(model="gpt-0", messages=[user("hello")]),
        lambda: fake_client.models.retrieve("gpt-0"),
    )
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError) as caught:
            attempt()
        error = caught.value
        assert (error.code, error.param) == ("model_not_found", "model")
        assert error.type == "invalid_request_error"


async def test_async_client_raises_the_same_classes(async_fake_client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await async_fake_client.chat.completions.create(
            model=FAKE_MODEL, messages=[{"role": "user", "content": "hello"}], temperature=-1
        )


def test_context_that_does_not_fit_is_refused_with_the_numbers(tiny_client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tiny_client.chat.completions.create(
            model=TINY_MODEL, messages=[user("Describe the picture.")], max_tokens=2047
        )

    assert caught.value.code == "context_length_exceeded"
    for number in ("10 ", "2047", "2048"):
        assert number in caught.value.message


# ------------------------------------------------------------------------------- the engine fails


def test_engine_failure_is_internal_server_error(fake_client: OpenAI) -> None:
    ways: list[dict[str, Any]] = [{}, {"stream": True}]
    for options in ways:
        with pytest.raises(openai.InternalServerError) as caught:
            fake_client.chat.completions.create(
                model=FAKE_MODEL, messages=[user("[[n=8 fail=0]]")], **options
            )
        assert (caught.value.status_code, caught.value.code) == (500, "internal_error")


def test_engine_failure_within_a_stream_raises_api_error_after_what_came(
    fake_client: OpenAI,
) -> None:
    stream = fake_client.chat.completions.create(
        model=FAKE_MODEL, messages=[user("[[n=8 d=20 fail=3]]")], stream=True
    )
    seen: list[str] = []

    with pytest.raises(openai.APIError) as caught:
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    assert not isinstance(caught.value, openai.APIStatusError)
    assert (caught.value.code, caught.value.type) == ("internal_error", "server_error")
    assert numbered(3).startswith("".join(seen))


# ------------------------------------------------------------------------- clients that go away


def test_client_time_out_raises_and_the_engine_forgets_the_request(
    fake_stack: RunningStack,
) -> None:
    aborted = fake_stack.worker_count("galen_worker_aborted_requests_total")
    with fake_stack.client(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=FAKE_MODEL, messages=[FOR_EVER])

    wait_until(fake_stack.is_idle, "the request's end at the engine", ABORT_LIMIT_S)
    assert fake_stack.worker_count("galen_worker_aborted_requests_total") == aborted + 1


def test_closing_a_stream_ends_all_its_choices_at_the_engine(
    fake_stack: RunningStack, fake_client: OpenAI
) -> None:
    aborted = fake_stack.worker_count("galen_worker_aborted_requests_total")
    stream = fake_client.chat.completions.create(
        model=FAKE_MODEL, messages=[FOR_EVER_AFTER_A_TOKEN], n=3, stream=True
    )
    choices: set[int] = set()
    while len(choices) < 3:  # each runs at the engine
        choices |= {choice.index for choice in next(stream).choices}
    stream.close()

    wait_until(fake_stack.is_idle, "the stream's end at the engine", ABORT_LIMIT_S)
    assert fake_stack.worker_count("galen_worker_aborted_requests_total") == aborted + 3


async def test_cancelled_task_ends_the_request_at_the_engine(fake_stack: RunningStack) -> None:
    async with fake_stack.async_client() as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model=FAKE_MODEL, messages=[FOR_EVER])
        )
        await eventually(lambda: fake_stack.num_running() == 1, 10.0, "the request at the engine")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        await eventually(fake_stack.is_idle, ABORT_LIMIT_S, "the request's end at the engine")


# ---------------------------------------------------------------------------------------- crowds


async def test_64_concurrent_streams_are_exact(async_fake_client: AsyncOpenAI) -> None:
    async def ask(length: int) -> tuple[str, int]:
        stream = await async_fake_client.chat.completions.create(
            model=FAKE_MODEL,
            messages=[{"role": "user", "content": f"[[n={length} t=50 d=2]]"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        answer = read_stream([chunk async for chunk in stream])
        assert answer.choices[0].finish_reasons == ["stop"]
        return answer.text, answer.usages[0].completion_tokens

    lengths = [20 + i for i in range(64)]
    answers = await asyncio.gather(*(ask(length) for length in lengths))

    assert answers == [(numbered(length), length) for length in lengths]


async def test_full_queue_is_503_at_once_and_says_when_to_come_back(
    narrow_stack: RunningStack,
) -> None:
    async with narrow_stack.async_client(max_retries=0) as client:
        accepted: list[asyncio.Task[object]] = []
        for running, waiting in ((1, 0), (1, 1), (1, 2)):
            creation = client.chat.completions.create(model=FAKE_MODEL, messages=[FOR_EVER])
            accepted.append(asyncio.create_task(creation))
            here = (running, waiting)
            await eventually(
                lambda here=here: (narrow_stack.num_running(), narrow_stack.num_waiting()) == here,
                10.0,
                f"{running} running and {waiting} waiting requests",
            )
        for n in (1, 4):
            started = time.monotonic()
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(
                    model=FAKE_MODEL, messages=[{"role": "user", "content": "one more"}], n=n
                )
            assert time.monotonic() - started < 1.0
            error = caught.value
            assert (error.status_code, error.code, error.type) == (
                503,
                "overloaded",
                "server_error",
            )
            assert int(error.response.headers["retry-after"]) >= 1
            assert "x-should-retry" not in error.response.headers
            assert narrow_stack.num_waiting() == 2
        for task in accepted:
            task.cancel()
        await asyncio.gather(*accepted, return_exceptions=True)
        await eventually(narrow_stack.is_idle, 10.0, "an idle stack")
        answer = await client.chat.completions.create(
            model=FAKE_MODEL, messages=[{"role": "user", "content": "[[n=2]]"}]
        )
        assert answer.choices[0].message.content == numbered(2)


def test_client_repeats_a_refused_request_by_itself(narrow_stack: RunningStack) -> None:
    tries = itertools.count()

    with narrow_stack.client(max_retries=2) as client:
        client._client.event_hooks["request"] = [lambda request: next(tries)]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=FAKE_MODEL, messages=[user("x")], temperature=9)

    assert next(tries) == 1, "what is the request's own fault is not sent again"
