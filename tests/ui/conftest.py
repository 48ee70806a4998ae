"""One real platform with its page for all tests here, a browser, and a fresh page per test."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.end_to_end.keys import ADMIN_KEY
from tests.support.browser import Beacon
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import (
    MOST_WAITING,
    PATIENCE_MS,
    SLOTS,
    PageStack,
    open_browser,
    page_stack,
)
from tests.ui.scripted import script

expect.set_options(timeout=PATIENCE_MS)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def beacon() -> Iterator[Beacon]:
    """A server that notes what the page's hostile answers make a browser ask for."""
    with Beacon() as beacon:
        yield beacon


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def platform(
    tmp_path_factory: pytest.TempPathFactory, beacon: Beacon
) -> AsyncIterator[PageStack]:
    """The miniature, two workers with the fake engine, a gateway without keys, jobs, the page."""
    folder = tmp_path_factory.mktemp("page")
    answers = folder / "script.jsonl"
    answers.write_text(script(beacon.port), encoding="utf-8")
    settings = {
        "GALEN_WORKER_FAKE_SCRIPT": str(answers),
        "GALEN_WORKER_SLOTS": str(SLOTS),
        "GALEN_GATEWAY_MAX_WAITING": str(MOST_WAITING),
        "GALEN_GATEWAY_ADMIN_KEY": ADMIN_KEY,
        "GALEN_UI_ADMIN_KEY": ADMIN_KEY,
    }
    async with page_stack(folder, settings=settings, with_miniature=True) as platform:
        yield platform


@pytest_asyncio.fixture(loop_scope="session")
async def chat(browser: Browser, platform: PageStack) -> AsyncIterator[ChatPage]:
    """The page in a session of its own, with the fake engine's model chosen."""
    async with ChatPage.opened(browser, platform.url, MODEL) as chat:
        yield chat
