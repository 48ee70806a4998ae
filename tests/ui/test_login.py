"""Logging in with a key, and out, at a gateway that asks for one."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.end_to_end.keys import ADMIN_KEY
from tests.gateway.media.image_files import noise, saved
from tests.support.browser import needs_browser
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import PATIENCE_MS, PageStack, answers, page_stack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SHORT_S = 6.0


@dataclass(frozen=True, slots=True)
class Locked:
    """A platform that asks for keys, and a key."""

    platform: PageStack
    key: str


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    settings = {"GALEN_GATEWAY_AUTH": "required", "GALEN_GATEWAY_ADMIN_KEY": ADMIN_KEY}
    folder = tmp_path_factory.mktemp("locked")
    async with page_stack(folder, num_workers=1, settings=settings) as platform:
        yield Locked(platform, await _issue(platform))


async def _issue(platform: PageStack) -> str:
    gateway = f"http://127.0.0.1:{platform.stack.port}"
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=gateway, headers=headers, verify=False) as http:
        made = await http.post("/v1/admin/keys", json={"name": "a-reader"})
    assert made.status_code == 200, made.text
    return made.json()["key"]


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield await context.new_page()
    await context.close()


async def log_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Log in").click()


async def test_a_wrong_key_is_refused_and_the_right_one_let_in(page: Page, locked: Locked):
    await page.goto(f"{locked.platform.url}/?model=fake")
    await expect(page).to_have_url(f"{locked.platform.url}/login?model=fake")

    for wrong in ("no key at all", f"{locked.key[:-1]}_"):
        await log_in(page, wrong)
        await expect(page.get_by_role("alert")).to_be_visible()
    await log_in(page, locked.key)

    await expect(page).to_have_url(f"{locked.platform.url}/?model=fake")
    await expect(page.locator("#model-state")).to_contain_text("ready")
    await expect(page.locator("#who")).to_contain_text("Log out")
    cookies = await page.context.cookies()
    assert locked.key not in str(cookies) + await page.content()


async def test_nothing_is_to_be_had_without_a_key(locked: Locked):
    async with httpx.AsyncClient(base_url=locked.platform.url, verify=False) as http:
        for path in (
            "/config",
            "/gradio_api/queue/data?session_hash=x",
            "/gradio_api/startup-events",
        ):
            assert (await http.get(path)).status_code == 401, path
        join = await http.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0})
        sent = await http.post("/gradio_api/upload", files={"files": ("stray.png", b"x")})
        assert (join.status_code, sent.status_code) == (401, 401)
        http.cookies.set("galen_session", "guessed")
        assert (await http.get("/config")).status_code == 401
    assert locked.platform.uploaded("stray.png") == []


async def test_logging_out_deletes_what_was_uploaded(page: Page, locked: Locked):
    chat = ChatPage(page, locked.platform.url)
    await page.goto(locked.platform.url)
    await log_in(page, locked.key)
    await expect(chat.state).to_contain_text("ready")
    picture = saved(noise(60, 60, 4), "PNG")
    await chat.upload(payload("private.png", "image/png", picture))
    await chat.ask_fully("[[n=3]]", "zq0002")
    assert len(locked.platform.uploaded("private.png")) == 1
    cookies = {each["name"]: each["value"] for each in await page.context.cookies()}  # pyright: ignore[reportTypedDictNotRequiredAccess] - given by the browser

    await page.get_by_role("button", name="Log out").click()

    await expect(page).to_have_url(f"{locked.platform.url}/login")
    left = [*locked.platform.uploaded("private.png"), *locked.platform.uploaded("seen.png")]
    assert left == []
    async with httpx.AsyncClient(cookies=cookies, verify=False) as http:
        assert (await http.get(f"{locked.platform.url}/config")).status_code == 401


async def test_a_session_that_is_over_says_so_and_takes_its_files_along(page: Page, locked: Locked):
    url = locked.platform.stack.add_page(
        GALEN_UI_SESSION_HOURS=str(SHORT_S / 3600), GALEN_UI_TEMP_DIR=str(locked.platform.uploads)
    )
    await answers(url)
    chat = ChatPage(page, url)
    await page.goto(url)
    await log_in(page, locked.key)
    await expect(chat.state).to_contain_text("ready")
    await chat.upload(payload("late.png", "image/png", saved(noise(60, 60, 5), "PNG")))
    assert len(locked.platform.uploaded("late.png")) == 1

    await expect(page.get_by_role("alert")).to_contain_text("Your session is over")

    await eventually(lambda: not locked.platform.uploaded("late.png"), 5, "the end of the file")
    await page.get_by_role("link", name="Log in again").click()
    await expect(page).to_have_url(f"{url}/login")
