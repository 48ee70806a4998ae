"""Traces of real processes, as a collector gets them."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.gateway.media.image_files import data_url, noise
from tests.support.otlp_receiver import OtlpReceiver, SeenSpan
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
HTTP = "POST /v1/chat/completions"
CANARY = "canary-of-a-patient"
KEY = "galen_0123456789abcdef_0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(
    tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver
) -> AsyncIterator[Stack]:
    """Two workers and a gateway that send their spans to the collector."""
    settings = {f"GALEN_{each}_TRACES_URL": collector.url for each in ("GATEWAY", "WORKER")}
    folder = tmp_path_factory.mktemp("traced")
    async with Stack(folder, num_workers=2, settings=settings, durable=False) as stack:
        yield stack


async def ask(stack: Stack, prompt: str, trace: str, image: str = "", **body: object) -> str:
    """Ask, as a caller with a trace of its own; returns the request's id."""
    content: list[Mapping[str, object]] = [{"type": "text", "text": prompt}]
    if image:
        content.append({"type": "image_url", "image_url": {"url": image}})
    answer = {"model": "fake", "messages": [{"role": "user", "content": content}], **body}
    headers = {"traceparent": f"00-{trace}-{CALLER}-01", "authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(timeout=60) as client:
        url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
        response = await client.post(url, json=answer, headers=headers)
    assert response.status_code == 200
    return response.headers["x-request-id"]


async def spans_of(collector: OtlpReceiver, trace: str) -> list[SeenSpan]:
    """All of a trace: the last to come are the gateway's first one and the worker's last."""

    def has_come() -> bool:
        return {span.name for span in collector.trace(trace)} >= {HTTP, "generate"}

    await eventually(has_come, 10.0, "the spans of a trace")
    return collector.trace(trace)


def one(spans: list[SeenSpan], name: str) -> SeenSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_one_trace_leads_from_the_client_through_redis_to_the_first_token(
    traced: Stack, collector: OtlpReceiver
):
    request_id = await ask(
        traced, f"{CANARY} [[n=8 t=50 d=5]]", TRACE, data_url(noise(60, 50)), stream=True
    )
    spans = await spans_of(collector, TRACE)

    http = one(spans, HTTP)
    attempt = one(spans, "attempt")
    wait, generation = one(spans, "queue wait"), one(spans, "generate")
    assert [(span.name, span.service, span.parent_id) for span in spans] == [
        (HTTP, "galen-gateway", CALLER),
        ("read request", "galen-gateway", http.span_id),
        ("admission", "galen-gateway", http.span_id),
        ("decode images", "galen-gateway", http.span_id),
        ("attempt", "galen-gateway", http.span_id),
        ("queue wait", "galen-worker", attempt.span_id),
        ("generate", "galen-worker", attempt.span_id),
    ]
    assert generation.start_ns <= generation.events["first token"] <= generation.end_ns
    assert generation.events["first token"] - generation.start_ns >= 45e6
    assert wait.end_ns <= generation.end_ns <= attempt.end_ns + 5e6
    assert attempt.end_ns <= http.end_ns
    assert http.attributes["galen.request_id"] == request_id
    assert http.attributes["http.response.status_code"] == 200
    assert generation.attributes["gen_ai.usage.output_tokens"] == 8
    assert one(spans, "decode images").attributes["galen.images"] == 1
    assert not any(span.is_error for span in spans)


async def test_request_of_a_killed_worker_shows_both_attempts_in_one_trace(
    traced: Stack, collector: OtlpReceiver
):
    trace = "a" * 32
    asking = asyncio.create_task(ask(traced, "[[n=200 d=20]]", trace))
    await eventually(lambda: traced.num_running() == 1, 10.0, "a running request")
    traced.kill_engine(traced.busiest())
    request_id = await asking
    spans = await spans_of(collector, trace)

    attempts = [span for span in spans if span.name == "attempt"]
    generations = [span for span in spans if span.name == "generate"]
    assert [span.attributes["galen.attempt"] for span in attempts] == [1, 2]
    assert [span.is_error for span in attempts] == [True, False]
    assert attempts[0].attributes["error.type"] == "engine_died"
    assert [span.parent_id for span in generations] == [attempts[1].span_id]  # the other one died
    assert {span.attributes["galen.request_id"] for span in attempts} == {request_id}
    assert len({span.parent_id for span in attempts}) == 1
    lost = [line for line in log_lines(traced) if line["event"] == "request.lost"]
    assert [line["trace_id"] for line in lost] == [trace]
    await traced.healthy()


async def test_log_line_of_a_request_leads_to_its_trace(traced: Stack, collector: OtlpReceiver):
    trace = "b" * 32
    request_id = await ask(traced, "[[n=2]]", trace)

    def lines() -> list[tuple[object, object]]:
        found = [line for line in log_lines(traced) if line.get("request_id") == request_id]
        return [(line["event"], line["trace_id"]) for line in found]

    await eventually(lines, 5.0, "the log line of a request")
    assert lines() == [("request.finished", trace)]


async def test_refused_request_is_traced_with_its_code_and_is_no_error_of_ours(
    traced: Stack, collector: OtlpReceiver
):
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"http://127.0.0.1:{traced.port}/v1/chat/completions", json={"model": CANARY}
        )
    request_id = response.headers["x-request-id"]

    def seen() -> list[SeenSpan]:
        spans = list(collector.spans)
        return [s for s in spans if s.attributes.get("galen.request_id") == request_id]

    await eventually(seen, 10.0, "the span of a refused request")
    (span,) = seen()
    assert response.status_code == 400
    assert span.attributes["error.type"] == response.json()["error"]["code"]
    assert span.parent_id == ""  # no caller began it
    assert not span.is_error


async def test_nothing_of_a_prompt_an_answer_an_image_or_a_key_is_sent(
    traced: Stack, collector: OtlpReceiver
):
    image = data_url(noise(40, 40))
    await ask(traced, f"{CANARY} [[n=4]]", "c" * 32, image)
    await spans_of(collector, "c" * 32)
    sent = b"".join(collector.bodies)

    assert CANARY.encode() not in sent
    assert b"zq0000" not in sent
    assert b"galen_0123" not in sent
    assert image[40:80].encode() not in sent
    assert b"chatcmpl-" in sent  # what may be there is


async def test_collector_that_is_away_costs_no_answer_and_no_slow_end(tmp_path: Path):
    away = "http://127.0.0.1:9/v1/traces"  # the port of nobody
    settings = {f"GALEN_{each}_TRACES_URL": away for each in ("GATEWAY", "WORKER")}
    async with Stack(tmp_path, num_workers=1, settings=settings, durable=False) as stack:
        for number in range(3):
            await ask(stack, "[[n=4]]", f"{number + 1:032x}")
        for program in (stack.gateways[0], stack.workers[0]):
            program.send(signal.SIGTERM)
            assert await stack.exit_code_of(program, 8.0) == 0


def log_lines(stack: Stack) -> list[dict[str, object]]:
    lines = [line for each in stack.gateways for line in stack.log_of(each).splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
