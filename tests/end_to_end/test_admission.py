"""What is refused before any image is decoded, and what operators see of it."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.gateway.media.decoder import MAX_IMAGE_PIXELS
from tests.end_to_end.stack import RunningStack, running_stack
from tests.gateway.media.image_files import noise, png, saved
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

MODEL = "fake-vlm"
ADMIN_KEY = "an admin key of tests"
PHRASE = "forbidden phrase"
NO_FILE = "file-" + "0" * 24


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One slot, two places in the queue, rules, and a context of two images and a half."""
    folder = tmp_path_factory.mktemp("admission")
    rules = folder / "rules.json"
    rules.write_text(json.dumps({"rules": [{"name": "house", "phrases": [PHRASE]}]}), "utf-8")
    gateway = {"MAX_WAITING": "2", "ADMIN_KEY": ADMIN_KEY, "MODERATION_RULES": str(rules)}
    worker = {"CONTEXT_LENGTH": "1400"}
    with running_stack(folder, model=MODEL, slots=1, gateway=gateway, worker=worker) as running:
        yield running


def damaged(width: int, height: int) -> bytes:
    """Its header is right, its pixels cannot be decoded: whoever decodes it says invalid_image."""
    return png(width, height, pixels=b"no pixels")


def ask(stack: RunningStack, *images: bytes, **more: Any) -> httpx.Response:
    urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images]
    return ask_about(stack, *urls, **more)


def ask_about(
    stack: RunningStack, *urls: str, text: str = "[[n=2]]", **more: Any
) -> httpx.Response:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}], **more}
    return httpx.post(f"{stack.base_url}/v1/chat/completions", json=body, timeout=30)


def refusal(response: httpx.Response) -> tuple[int, str, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"], error["param"]


def image_at(index: int) -> str:
    return f"messages[0].content[{index}].image_url.url"


INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("images", "more", "expected"),
    [
        ([damaged(64, 64)] * 17, {}, (400, INVALID, "too_many_images", image_at(17))),
        ([damaged(7000, 6000)], {}, (400, INVALID, "image_too_large", image_at(1))),
        ([damaged(20, 90)], {}, (400, INVALID, "image_too_small", image_at(1))),
        ([damaged(6000, 6000)] * 2, {}, (400, INVALID, "too_many_images", image_at(2))),
        ([damaged(64, 64)] * 3, {}, (400, INVALID, "context_length_exceeded", "messages")),
        (
            [damaged(64, 64)] * 2,
            {"max_tokens": 300},
            (400, INVALID, "context_length_exceeded", "messages"),
        ),
        ([damaged(64, 64)], {}, (400, INVALID, "invalid_image", image_at(1))),
    ],
)
def test_header_decides_before_the_pixels_do(
    stack: RunningStack,
    images: list[bytes],
    more: dict[str, Any],
    expected: tuple[int, str, str, str],
) -> None:
    assert MAX_IMAGE_PIXELS < 7000 * 6000
    assert refusal(ask(stack, *images, **more)) == expected


def test_images_that_fit_are_answered(stack: RunningStack) -> None:
    assert ask(stack, saved(noise(64, 64), "PNG"), max_tokens=2).status_code == 200


def test_no_room_means_no_decoding_and_a_time_to_come_again(stack: RunningStack) -> None:
    with stack.client() as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "[[n=400 d=20]]"}],
            stream=True,
            timeout=30,
        )
        wait_until(lambda: stack.num_running() == 1, "a running request")
        waiting = [_unread_request(stack.port) for _ in range(2)]
        wait_until(lambda: stack.num_waiting() == 2, "two waiting requests")
        began = time.monotonic()
        full = ask(stack, damaged(3000, 3000))
        elsewhere = ask_about(stack, NO_FILE)
        took_s = time.monotonic() - began
        stream.close()
        for each in waiting:
            each.close()
    assert refusal(full) == refusal(elsewhere) == (503, "server_error", "overloaded", None)
    assert 1 <= int(full.headers["retry-after"]) <= 60
    assert took_s < 1.0
    wait_until(stack.is_idle, "an idle stack")
    assert refusal(ask_about(stack, NO_FILE)) == (404, INVALID, "file_not_found", image_at(1))


def _unread_request(port: int) -> socket.socket:
    """A request that is sent and whose answer nobody waits for."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "[[n=1]]"}]})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    sender = socket.create_connection(("127.0.0.1", port))
    sender.sendall((head + body).encode())
    return sender


def test_what_the_operator_forbids_is_refused_and_in_no_log(stack: RunningStack) -> None:
    answer = ask(stack, text=f"please, a {PHRASE.upper()}!")
    assert refusal(answer) == (400, INVALID, "content_refused", "messages")
    assert PHRASE not in answer.text.lower()
    assert all(PHRASE not in log.lower() for log in stack.logs().values())


def admin(stack: RunningStack, path: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    response = httpx.get(f"{stack.base_url}/v1/admin/{path}", headers=headers)
    assert response.status_code == 200
    return response.json()


def test_status_shows_workers_queues_and_this_gateway(stack: RunningStack) -> None:
    assert ask(stack).status_code == 200
    wait_until(lambda: bool(admin(stack, "status")["queues"]), "a heartbeat")
    status = admin(stack, "status")
    assert [(w["model"], w["state"], w["slots"]) for w in status["workers"]] == [
        (MODEL, "ready", 1)
    ]
    [queue] = [each for each in status["queues"] if each["lane"] == "interactive"]
    assert queue["model"] == MODEL
    assert queue["waiting"] == 0
    wait_until(
        lambda: (admin(stack, "status")["queues"][0]["rate_per_s"] or 0) >= 0, "a measured rate"
    )
    assert status["gateway"]["open"] == 0
    assert not status["gateway"]["is_draining"]
    assert status["hosts"] == []


def test_errors_are_counted_by_cause_and_model_without_what_clients_typed(
    stack: RunningStack,
) -> None:
    def count(code: str, model: str) -> int:
        data = admin(stack, "errors")["data"]
        return sum(e["count"] for e in data if (e["code"], e["model"]) == (code, model))

    before = count("too_many_images", MODEL)
    ask(stack, *[damaged(64, 64)] * 17)
    ask(stack, *[damaged(64, 64)] * 17)
    typed = httpx.post(
        f"{stack.base_url}/v1/chat/completions",
        json={"model": "patient-4711", "messages": [{"role": "user", "content": "x"}]},
    )
    assert typed.status_code == 404
    assert count("too_many_images", MODEL) == before + 2
    assert count("model_not_found", "") >= 1
    errors = admin(stack, "errors")["data"]
    assert "patient-4711" not in json.dumps(errors)
    assert [e["last"] for e in errors] == sorted((e["last"] for e in errors), reverse=True)


@pytest.mark.parametrize("path", ["status", "errors"])
def test_operators_routes_ask_for_the_key(stack: RunningStack, path: str) -> None:
    response = httpx.get(f"{stack.base_url}/v1/admin/{path}")
    assert refusal(response)[2] == "admin_forbidden"
