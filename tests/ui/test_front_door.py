"""What the page refuses, what it says in its headers, and that it speaks to its gateway only."""

import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.support.browser import needs_browser
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import PageStack
from tests.ui.watched_connections import seen_in

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CLOSED = (
    "/gradio_api/info", "/gradio_api/info/", "/gradio_api/openapi.json", "/gradio_api/call/predict",
    "/gradio_api/api/predict", "/gradio_api/run/predict", "/gradio_api/queue/status",
    "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/file/etc/passwd",
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd",
    "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/stream/x/y/z/playlist.m3u8",
    "/gradio_api/vibe-editor/", "/gradio_api/dev/reload", "/gradio_api/mcp/", "/gradio_api/token",
    "/monitoring", "/monitoring/x", "/docs", "/redoc", "/openapi.json", "/token", "/user",
    "/static/../../../etc/passwd", "/gradio_api/deep_link", "/robots.txt", "/custom_component/x/y",
)  # fmt: skip
OPEN = ("/", "/config", "/healthz", "/theme.css", "/login", "/gradio_api/info", "/no-such-page")
FIXED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest_asyncio.fixture(loop_scope="session")
async def http(platform: PageStack) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a session."""
    async with httpx.AsyncClient(base_url=platform.url, verify=False) as http:
        assert (await http.get("/")).status_code == 200
        assert http.cookies
        yield http


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_interfaces_of_gradio_are_closed(method: str, http: httpx.AsyncClient):
    got = {path: (await http.request(method, path)).status_code for path in CLOSED}

    assert {path: status for path, status in got.items() if status not in (403, 404, 405)} == {}


async def test_nothing_can_be_asked_by_the_name_of_a_function(http: httpx.AsyncClient):
    config = (await http.get("/config")).json()
    assert config["dependencies"]
    visible = [each for each in config["dependencies"] if each["api_visibility"] != "private"]
    assert [each["api_name"] for each in visible] == []


async def test_every_answer_has_the_headers(http: httpx.AsyncClient):
    for path in OPEN:
        answer = await http.get(path)
        policy = answer.headers["content-security-policy"]
        assert {name: answer.headers.get(name) for name in FIXED} == FIXED, path
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "server" not in answer.headers
    other = await http.post("/login", headers={"origin": "http://evil.example"})
    assert other.headers["x-frame-options"] == "DENY"


async def test_the_cookie_is_for_this_site_and_not_for_scripts(platform: PageStack):
    async with httpx.AsyncClient(base_url=platform.url, verify=False) as http:
        cookie = (await http.get("/")).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    assert len(token) >= 43  # 32 bytes


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
async def test_another_name_is_refused(host: str, http: httpx.AsyncClient):
    answer = await http.get("/", headers={"host": host})

    assert answer.status_code in (400, 403)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"), ("POST", "/logout")],
)
async def test_another_origin_is_refused(method: str, path: str, http: httpx.AsyncClient):
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://[::1"):
        answer = await http.request(method, path, headers={"origin": origin})
        assert answer.status_code == 403, origin


async def test_a_page_leaves_its_own_place_for_nothing(chat: ChatPage, platform: PageStack):
    """The browser's part is checked at the end of every test here, this is the process's."""
    await chat.ask_fully("[[n=3]]", "zq0002")
    await expect(chat.state).to_contain_text("ready")

    allowed = {f"('127.0.0.1', {platform.stack.port})", f"(('127.0.0.1', {platform.stack.port}),)"}
    assert seen_in(platform.connections) - allowed == set()
    assert seen_in(platform.connections)  # or nothing was watched


async def test_no_file_of_the_page_names_another_place(http: httpx.AsyncClient):
    page = (await http.get("/")).text

    config = json.dumps((await http.get("/config")).json())
    loaded = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", page)
    assert [each for each in loaded if not each.startswith(str(http.base_url))] == []
    assert "googleapis" not in page + config
    assert "huggingface.co" not in config
