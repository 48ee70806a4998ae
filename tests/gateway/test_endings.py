"""How streams end that cannot end well: stalled clients, a drain that is over, bugs, odd codes."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from services.gateway.catalogue import ModelCatalogue
from services.gateway.dispatch import Dispatcher
from services.gateway.metrics import GatewayMetrics
from services.gateway.replies import Reply, ReplyItem, error_of
from services.gateway.routes.chat import ChatQuestion
from services.gateway.settings import GatewaySettings
from services.gateway.state import GatewayState
from services.gateway.streaming import AnswerStream
from services.protocol.errors import ErrorCode
from services.protocol.messages import Failed, Finished, Tokens
from tests.end_to_end.stack import RunningStack, running_stack
from tests.support.waiting import wait_until

CHAT = "/v1/chat/completions"
STALLED = "galen_gateway_stalled_clients_total"


def question(text: str, *, stream: bool = True) -> dict[str, object]:
    return {
        "model": "fake-vlm",
        "stream": stream,
        "messages": [{"role": "user", "content": text}],
    }


def deaf_client(port: int, text: str, **more: object) -> socket.socket:
    """A client that asks, and never reads."""
    body = json.dumps({**question(text), **more}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client


def is_gone(client: socket.socket) -> bool:
    """Whether the other side has dropped the connection; reads nothing."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] != 1  # not TCP_ESTABLISHED, include/net/tcp_states.h


# ------------------------------------------------------------------------------ stalled clients


@pytest.fixture(scope="module")
def impatient_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    gateway = {"STALLED_CLIENT_S": "0.5"}
    with running_stack(
        tmp_path_factory.mktemp("impatient"), model="fake-vlm", slots=64, gateway=gateway
    ) as stack:
        yield stack


@pytest.mark.e2e
def test_client_that_never_reads_loses_its_connection_and_costs_nothing(
    impatient_stack: RunningStack,
) -> None:
    stack = impatient_stack

    def crowd(size: int) -> None:
        before = stack.gateway_count(STALLED)
        clients = [deaf_client(stack.port, "[[n=9999 d=0]]", n=4) for _ in range(size)]
        try:
            wait_until(lambda: all(map(is_gone, clients)), "the end of all connections", 15.0)
            assert stack.gateway_count(STALLED) == before + size
            wait_until(stack.is_idle, "an idle stack")
        finally:
            for client in clients:
                client.close()

    crowd(2)
    before = stack.gateway_rss_bytes()
    for _ in range(3):
        crowd(2)

    assert stack.gateway_rss_bytes() - before < 24 << 20
    log = stack.logs()["g0"]
    assert "Traceback" not in log
    assert "ASGI callable" not in log


# ----------------------------------------------------------------------------------- the drain


@pytest.mark.e2e
@pytest.mark.parametrize("stream", [True, False])
def test_end_of_the_drain_s_time_is_an_error_of_ours(tmp_path: Path, stream: bool) -> None:
    gateway = {"DRAIN_DELAY_S": "0", "DRAIN_TIMEOUT_S": "0.3"}
    with (
        running_stack(tmp_path, model="fake-vlm", gateway=gateway) as stack,
        ThreadPoolExecutor() as threads,
    ):
        ask = {"json": question("[[n=9000 d=20]]", stream=stream), "timeout": 20.0}
        asking = threads.submit(httpx.post, f"{stack.base_url}{CHAT}", **ask)
        deaf = deaf_client(stack.port, "[[n=9000 d=0]]", n=4)
        wait_until(lambda: stack.num_running() == 1, "the deaf client's end at the engine")
        stack.gateway.send(signal.SIGTERM)
        told_at = time.monotonic()
        response = asking.result()
        wait_until(lambda: stack.gateway.exit_code is not None, "the gateway's end")
        took_s = time.monotonic() - told_at
        deaf.close()

        assert response.status_code == (200 if stream else 503)
        assert "shutting_down" in response.text
        assert response.text.endswith("data: [DONE]\n\n") == stream
        assert stack.gateway.exit_code == 0
        assert took_s < 4.0
        log = stack.logs()["g0"]
        assert "Traceback" not in log
        finished = [line for line in log.splitlines() if "request.finished" in line]
        assert sum("shutting_down" in line for line in finished) == 1


# ------------------------------------------------------------------ bugs, and codes we do not know


def started_stream(items: list[ReplyItem]) -> AnswerStream:
    """A stream of one choice that is about to send `items`."""
    settings, metrics, catalogue = GatewaySettings(), GatewayMetrics(), ModelCatalogue()
    unused: Any = None
    dispatcher = Dispatcher(settings, unused, unused, catalogue, metrics, "gateway-1")
    state = GatewayState(settings, metrics, catalogue, dispatcher, *[unused] * 9)
    reply = Reply(stream=True, timeout_s=1.0)
    reply.tickets.append(unused)
    message = {"role": "user", "content": "?"}
    question = ChatQuestion({"model": "m", "messages": [message], "stream": True})
    stream = AnswerStream(state, reply, items, question.stream_format("id", 0), question)
    reply.tickets.clear()
    return stream


async def sent_by(stream: AnswerStream, scope: dict[str, Any]) -> bytes:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    await stream(scope, receive, send)
    assert sent[-1]["more_body"] is False
    return b"".join(message.get("body", b"") for message in sent)


def test_code_that_nobody_knows_is_an_internal_error() -> None:
    error = error_of(Failed("r", 1, "code_of_a_later_version", "what was wrong", "n"))

    assert (error.code, error.message, error.param) == (
        ErrorCode.INTERNAL_ERROR, "what was wrong", "n",
    )  # fmt: skip


async def test_unknown_code_within_a_stream_ends_it_with_an_error_event() -> None:
    scope: dict[str, Any] = {}
    tokens = Tokens("r", 1, 0, [5], ["a"])
    items: list[ReplyItem] = [(0, tokens), (0, Failed("r", 1, "later_code", "m"))]
    body = await sent_by(started_stream(items), scope)

    assert b'"code":"internal_error"' in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert scope["galen.code"] == "internal_error"


async def test_bug_while_a_stream_is_rendered_ends_it_with_an_error_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = Tokens("r", 1, 0, [5], ["Canary-4711"], [])  # a text without its log-probability
    scope: dict[str, Any] = {}
    body = await sent_by(started_stream([(0, tokens)]), scope)

    assert b'"code":"internal_error"' in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert scope["galen.code"] == "internal_error"
    output = "".join(capsys.readouterr())
    assert output.count("request.broken") == 1
    assert "Canary" not in output


async def test_error_behind_the_last_end_is_none_of_a_complete_answer() -> None:
    items: list[ReplyItem] = [
        (0, Tokens("r", 1, 0, [5], ["a"])),
        (0, Finished("r", 1, "stop", 3, 1)),
        (0, Failed("r", 1, "shutting_down", "m")),
    ]
    body = await sent_by(started_stream(items), {})

    assert b"error" not in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_large_last_write_is_followed_until_it_is_read() -> None:
    events = [Tokens("r", 1, i, [5], ["x" * 4000]) for i in range(20)]
    items: list[ReplyItem] = [(0, each) for each in events]
    sizes: list[int] = []

    async def send(message: Message) -> None:
        if "body" in message:
            sizes.append(len(message["body"]))

    async def receive() -> Message:
        raise AssertionError

    await started_stream([*items, (0, Finished("r", 1, "stop", 3, 20))])({}, receive, send)

    assert sizes[0] > 80_000
    assert sizes[1:] == [0]
