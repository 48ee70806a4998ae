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

from tests.end_to_end.chat import FAKE_IMAGE_TOKENS, image_part, text_part
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack, running_stack
from tests.gateway.media.image_files import noise, saved

pytestmark = pytest.mark.e2e

PICTURE = saved(noise(64, 48, 3), "PNG")
BATCH_LINE = (
    b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'
)


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
    gateway = {
        "IMAGE_HOSTS": f"{site[0]}, images.example.org",
        "IMAGE_NETWORKS": "127.0.0.0/8",
        "VISION_DAYS": "10",
    }
    folder = tmp_path_factory.mktemp("image-sources")
    with running_stack(folder, model=FAKE_MODEL, slots=4, gateway=gateway) as running:
        yield running


def prompt_tokens(stack: RunningStack, part: dict[str, Any]) -> int:
    messages: Any = [{"role": "user", "content": [text_part("What? [[n=2]]"), part]}]
    with stack.client() as client:
        answer = client.chat.completions.create(model=FAKE_MODEL, messages=messages)
    assert answer.usage is not None
    return answer.usage.prompt_tokens


def code_of(stack: RunningStack, url: str) -> tuple[int, str | None, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        prompt_tokens(stack, image_part(url))
    return caught.value.status_code, caught.value.code, caught.value.param


def uploaded(stack: RunningStack, content: bytes, name: str = "a.png") -> str:
    with stack.client() as client:
        return client.files.create(file=(name, content), purpose="vision").id


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("is_file", [False, True])
def test_uploaded_image_is_asked_about_by_its_id(
    stack: RunningStack, api: str, is_file: bool
) -> None:
    file_id = uploaded(stack, PICTURE)
    if api == "chat":
        part = {"type": "file", "file": {"file_id": file_id}} if is_file else image_part(file_id)
        assert prompt_tokens(stack, part) > FAKE_IMAGE_TOKENS
        return
    image = {"type": "input_image", "file_id": file_id, "detail": "auto"}
    file = {"type": "input_file", "file_id": file_id}
    content: Any = [{"type": "input_text", "text": "What? [[n=2]]"}, file if is_file else image]
    with stack.client() as client:
        answer = client.responses.create(
            model=FAKE_MODEL, input=[{"role": "user", "content": content}], store=False
        )
    assert answer.usage is not None
    assert answer.usage.input_tokens > FAKE_IMAGE_TOKENS


def test_uploaded_dicom_file_is_shown(stack: RunningStack) -> None:
    found = get_testdata_file("CT_small.dcm", download=False)
    file_id = uploaded(stack, Path(str(found)).read_bytes(), "ct.dcm")
    assert prompt_tokens(stack, image_part(file_id)) > FAKE_IMAGE_TOKENS
    body = {"model": FAKE_MODEL, "image_url": {"url": file_id}}
    answer = httpx.post(f"{stack.base_url}/v1/galen/preview", json=body, timeout=30)
    assert answer.json()["facts"]["modality"] == "CT"


def test_file_that_is_not_there_or_no_image(stack: RunningStack) -> None:
    place = "messages[0].content[1].image_url.url"
    assert code_of(stack, "file-" + "0" * 24) == (404, "file_not_found", place)
    with pytest.raises(openai.BadRequestError) as caught:
        uploaded(stack, b"<html></html>", "a.html")
    assert caught.value.code == "unsupported_image_type"
    with stack.client() as client:
        other = client.files.create(file=("b.jsonl", BATCH_LINE), purpose="batch").id
    assert code_of(stack, other) == (400, "invalid_value", place)


def test_listed_host_is_fetched_from(stack: RunningStack, site: tuple[str, list[str]]) -> None:
    assert prompt_tokens(stack, image_part(f"{site[0]}/a.png")) > FAKE_IMAGE_TOKENS
    assert site[1].count("/a.png") == 1


def test_one_url_named_often_is_fetched_once(
    stack: RunningStack, site: tuple[str, list[str]]
) -> None:
    before = site[1].count("/a.png")
    part = image_part(f"{site[0]}/a.png")
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


def test_an_upload_says_when_it_ends(stack: RunningStack) -> None:
    day_s = 86_400
    with stack.client() as client:
        end: Any = {"anchor": "created_at", "seconds": 3600}
        short = client.files.create(file=("a.png", PICTURE), purpose="vision", expires_after=end)
        usual = client.files.create(file=("a.png", PICTURE), purpose="vision")
        batch = client.files.create(file=("b.jsonl", BATCH_LINE), purpose="batch")
        assert client.files.retrieve(short.id).expires_at == short.created_at + 3600
    assert usual.expires_at == usual.created_at + 10 * day_s  # the operator's days
    assert batch.expires_at is None


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"[seconds]": "3600"}, "missing_required_parameter", "[anchor]"),
        ({"[anchor]": "created_at"}, "missing_required_parameter", "[seconds]"),
        ({"[anchor]": "now", "[seconds]": "3600"}, "invalid_value", "[anchor]"),
        *(
            ({"[anchor]": "created_at", "[seconds]": wrong}, "invalid_value", "[seconds]")
            for wrong in ("3599", "2592001", "soon", "-3600", "3600.5", "", "\u0663600", "9" * 5000)
        ),
        # longer than the operator keeps images
        ({"[anchor]": "created_at", "[seconds]": "864001"}, "invalid_value", "[seconds]"),
        ({"": "3600"}, "unsupported_parameter", ""),
    ],
)
def test_an_end_that_is_none(
    stack: RunningStack, fields: dict[str, str], code: str, param: str
) -> None:
    form = {f"expires_after{name}": value for name, value in fields.items()}
    answer = httpx.post(
        f"{stack.base_url}/v1/files",
        data={"purpose": "vision", **form},
        files={"file": ("a.png", PICTURE)},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400, code, f"expires_after{param}",
    )  # fmt: skip
