"""Images that are not in the request: uploaded once, or fetched from a host that is listed."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydicom.data import get_testdata_file

from tests.end_to_end.chat import FAKE_IMAGE_TOKENS, text_part
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack, running_stack
from tests.gateway.media.image_files import noise, saved

pytestmark = pytest.mark.e2e

PICTURE = saved(noise(64, 48, 3), "PNG")


class _Site(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PICTURE if self.path == "/a.png" else b"<html><body>no</body></html>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its signature
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Site", (_Site,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, site: tuple[str, list[str]]
) -> Iterator[RunningStack]:
    gateway = {"IMAGE_HOSTS": f"{site[0]}, images.example.org", "IMAGE_NETWORKS": "127.0.0.0/8"}
    folder = tmp_path_factory.mktemp("image-sources")
    with running_stack(folder, model=FAKE_MODEL, slots=4, gateway=gateway) as running:
        yield running


def prompt_tokens(stack: RunningStack, url: str) -> int:
    part = {"type": "image_url", "image_url": {"url": url}}
    messages: Any = [{"role": "user", "content": [text_part("What? [[n=2]]"), part]}]
    with stack.client() as client:
        answer = client.chat.completions.create(model=FAKE_MODEL, messages=messages)
    assert answer.usage is not None
    return answer.usage.prompt_tokens


def code_of(stack: RunningStack, url: str) -> tuple[int, str | None, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        prompt_tokens(stack, url)
    return caught.value.status_code, caught.value.code, caught.value.param


def uploaded(stack: RunningStack, content: bytes, name: str = "a.png") -> str:
    with stack.client() as client:
        return client.files.create(file=(name, content), purpose="vision").id


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_uploaded_image_is_asked_about_by_its_id(stack: RunningStack, api: str) -> None:
    file_id = uploaded(stack, PICTURE)
    if api == "chat":
        assert prompt_tokens(stack, file_id) > FAKE_IMAGE_TOKENS
        return
    content: Any = [
        {"type": "input_text", "text": "What? [[n=2]]"},
        {"type": "input_image", "file_id": file_id, "detail": "auto"},
    ]
    with stack.client() as client:
        answer = client.responses.create(
            model=FAKE_MODEL, input=[{"role": "user", "content": content}], store=False
        )
    assert answer.usage is not None
    assert answer.usage.input_tokens > FAKE_IMAGE_TOKENS


def test_uploaded_dicom_file_is_shown(stack: RunningStack) -> None:
    found = get_testdata_file("CT_small.dcm", download=False)
    file_id = uploaded(stack, Path(str(found)).read_bytes(), "ct.dcm")
    assert prompt_tokens(stack, file_id) > FAKE_IMAGE_TOKENS
    body = {"model": FAKE_MODEL, "image_url": {"url": file_id}}
    answer = httpx.post(f"{stack.base_url}/v1/galen/preview", json=body, timeout=30)
    assert answer.json()["facts"]["modality"] == "CT"


def test_file_that_is_not_there_or_no_image(stack: RunningStack) -> None:
    place = "messages[0].content[1].image_url.url"
    assert code_of(stack, "file-" + "0" * 24) == (404, "file_not_found", place)
    with pytest.raises(openai.BadRequestError) as caught:
        uploaded(stack, b"<html></html>", "a.html")
    assert caught.value.code == "unsupported_image_type"
    line = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'
    with stack.client() as client:
        other = client.files.create(file=("b.jsonl", line), purpose="batch").id
    assert code_of(stack, other) == (400, "invalid_value", place)


def test_listed_host_is_fetched_from(stack: RunningStack, site: tuple[str, list[str]]) -> None:
    assert prompt_tokens(stack, f"{site[0]}/a.png") > FAKE_IMAGE_TOKENS
    assert site[1].count("/a.png") == 1


def test_one_url_named_often_is_fetched_once(
    stack: RunningStack, site: tuple[str, list[str]]
) -> None:
    before = site[1].count("/a.png")
    part = {"type": "image_url", "image_url": {"url": f"{site[0]}/a.png"}}
    messages: Any = [{"role": "user", "content": [text_part("What? [[n=2]]"), *[part] * 8]}]
    with stack.client() as client:
        client.chat.completions.create(model=FAKE_MODEL, messages=messages)
    assert site[1].count("/a.png") == before + 1


def test_what_is_not_listed_is_not_asked(stack: RunningStack, site: tuple[str, list[str]]) -> None:
    place = "messages[0].content[1].image_url.url"
    before = len(site[1])
    for url in ("http://localhost:1/", "ftp://images.example.org/a", "https://example.org/a.png"):
        assert code_of(stack, url) == (400, "url_not_allowed", place)
    assert len(site[1]) == before


def test_pages_and_redirects_to_elsewhere(stack: RunningStack, site: tuple[str, list[str]]) -> None:
    place = "messages[0].content[1].image_url.url"
    assert code_of(stack, f"{site[0]}/page") == (400, "image_fetch_failed", place)
    assert code_of(stack, f"{site[0]}/away") == (400, "url_not_allowed", place)
