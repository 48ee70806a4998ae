"""With which key the status is read: the person's own, or the operator's on this machine only."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.ui.context import Ui
from services.ui.gateway_client import Gateways
from services.ui.sessions import COOKIE, Session, Sessions
from services.ui.settings import UiSettings
from tests.support.stub_endpoint import StubEndpoint, completion

KEY = "the-operators-own-key"


@dataclass
class Door:
    """The gateway's answer to whether a key is needed."""

    url: str = ""
    asks_for_key: bool = False

    async def models(self, _: Request) -> Response:
        if self.asks_for_key:
            error = {"message": "a key is needed", "code": "missing_api_key"}
            return JSONResponse({"error": error}, 401)
        return JSONResponse({"object": "list", "data": []})


@pytest.fixture
def door() -> Iterator[Door]:
    found = Door()
    routes = [Route("/open/models", found.models)]
    with StubEndpoint(lambda body, number: completion(""), more_routes=routes) as stub:
        found.url = stub.url.removesuffix("/v1") + "/open"
        yield found


class Page:
    """A person's page, before which `gateways` is closed."""

    def __init__(self, gateways: Gateways, folder: Path) -> None:
        self.gateways = gateways
        self.folder = folder

    async def key(
        self,
        own: str | None = None,
        headers: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> str | None:
        sessions = Sessions(60, 60, 60)
        chosen = UiSettings(**{"admin_key": KEY, **(settings or {})})
        ui = Ui(chosen, sessions, self.gateways, self.folder)
        return await ui.admin_key_of(request_of(sessions.start(own, ""), headers or {}))


def request_of(session: Session, headers: dict[str, str]) -> gr.Request:
    sent = {"cookie": f"{COOKIE}={session.token}", **headers}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    return gr.Request(Request({"type": "http", "headers": raw}))  # pyright: ignore[reportArgumentType] - FastAPI's is a subclass


@pytest.fixture
async def page(door: Door, tmp_path: Path) -> AsyncIterator[Page]:
    gateways = Gateways(door.url, 10.0)
    yield Page(gateways, tmp_path)
    await gateways.close()


async def test_whoever_logged_in_reads_with_their_own_key(page: Page) -> None:
    assert await page.key("mine") == "mine"


async def test_where_nobody_is_asked_for_a_key_the_operators_reads(page: Page) -> None:
    assert await page.key() == KEY


async def test_nothing_is_read_without_a_key(page: Page) -> None:
    assert await page.key(settings={"admin_key": None}) is None


async def test_a_session_from_before_the_first_key_is_a_stranger_now(
    page: Page, door: Door
) -> None:
    door.asks_for_key = True

    assert await page.key() is None


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"allowed_hosts": "galen.example"}])
async def test_a_page_that_others_can_open_does_not_borrow_it(
    page: Page, settings: dict[str, str]
) -> None:
    assert await page.key(settings=settings) is None


@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for", "x-real-ip"])
async def test_a_request_that_a_proxy_passes_on_does_not_borrow_it(page: Page, name: str) -> None:
    assert await page.key(headers={name: "192.0.2.7"}) is None


def test_the_key_does_not_stand_in_the_settings_own_text() -> None:
    settings = UiSettings(admin_key=KEY)  # pyright: ignore[reportArgumentType] - it converts

    assert KEY not in repr(settings)
    assert KEY not in str(settings)
