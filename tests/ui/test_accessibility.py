"""The page without a mouse, with a screen reader, in the dark and on a narrow screen."""

from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from tests.modeling.medical_images.dicom_files import ct
from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import PageStack, answers
from tests.ui.test_medical_images import FRAMES

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

Scheme = Literal["dark", "light"]
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
GRAVE = ("serious", "critical")


async def grave_findings(page: Page) -> list[str]:
    """Return what axe-core finds that keeps people out."""
    found: list[dict[str, Any]] = (await Axe().run(page)).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:160]} {node.get('failureSummary')}"
        for each in found
        if each["impact"] in GRAVE
        for node in each["nodes"]
    ]


@SCHEMES
async def test_a_chat_keeps_nobody_out(scheme: Scheme, browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url, MODEL, color_scheme=scheme) as chat:
        assert await grave_findings(chat.page) == []
        await chat.upload(payload("three.dcm", "application/dicom", ct(FRAMES)))
        await expect(chat.seen).to_be_visible()
        assert await grave_findings(chat.page) == []
        await chat.ask_fully("what is markdown", "second")
        await chat.of_message("Like").click()
        await expect(chat.page.get_by_text("Your vote was kept")).to_be_visible()
        await chat.page.get_by_role("button", name="Parameters").click()
        assert await grave_findings(chat.page) == []


@SCHEMES
@pytest.mark.parametrize(
    ("name", "sign"),
    [("Compare", "First model"), ("Evaluation", "Benchmark"), ("Status", "Workers")],
)
async def test_no_tab_keeps_anybody_out(
    name: str, sign: str, scheme: Scheme, browser: Browser, platform: PageStack
):
    async with ChatPage.opened(browser, platform.url, MODEL, color_scheme=scheme) as chat:
        panel = await chat.open_tab(name)
        await expect(panel.get_by_text(sign).first).to_be_visible()
        assert await grave_findings(chat.page) == []


@SCHEMES
async def test_the_login_keeps_nobody_out(scheme: Scheme, browser: Browser, platform: PageStack):
    url = platform.stack.add_page(GALEN_UI_LOGIN="required")
    await answers(url)
    context = await browser.new_context(color_scheme=scheme)
    page = await context.new_page()
    await page.goto(url)
    await expect(page.get_by_label("API key")).to_be_focused()
    assert await grave_findings(page) == []
    await context.close()


@SCHEMES
async def test_it_is_as_dark_as_is_wished(scheme: Scheme, browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url, MODEL, color_scheme=scheme) as chat:
        colour = await chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = (int(part) for part in colour.strip("rgba()").split(",")[:3])
        assert (red + green + blue < 3 * 80) == (scheme == "dark"), colour


@pytest.mark.parametrize("width", [360, 1280])
async def test_nothing_runs_over_the_edge(width: int, browser: Browser, platform: PageStack):
    size = {"width": width, "height": 800}
    async with ChatPage.opened(browser, platform.url, MODEL, viewport=size) as chat:
        await chat.upload(payload("three.dcm", "application/dicom", ct(FRAMES)))
        await chat.ask_fully("what is markdown", "second")
        assert await chat.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_a_keyboard_is_enough(chat: ChatPage, platform: PageStack):
    await chat.question.focus()
    await chat.page.keyboard.type("[[n=2000 d=100]]")
    await chat.page.keyboard.press("Tab")
    assert await focused(chat.page) == "Submit"
    await chat.page.keyboard.press("Enter")
    await expect(chat.answers).to_contain_text("zq0002")

    await chat.question.focus()
    names = []
    while "Stop" not in names and len(names) < 8:
        await chat.page.keyboard.press("Tab")
        names.append(await focused(chat.page))
    assert names[-1] == "Stop", names
    await chat.page.keyboard.press("Enter")
    await expect(chat.answers).to_contain_text("Stopped.")

    await chat.question.focus()
    order: list[str] = []
    while "Save as a file" not in order and len(order) < 12:
        await chat.page.keyboard.press("Tab")
        order.append(await focused(chat.page))
    assert order[-5:] == ["Stop", "Retry", "Undo", "New conversation", "Save as a file"], order


async def focused(page: Page) -> str:
    """Return how a screen reader would call what has the focus."""
    return await page.evaluate(
        """() => {
             const focused = document.activeElement;
             return focused.getAttribute("aria-label") || focused.innerText.trim();
           }"""
    )


async def test_what_can_be_used_has_a_name(chat: ChatPage):
    for name in ("Question", "Model"):
        await expect(chat.page.get_by_label(name, exact=True)).to_be_visible()
    await expect(chat.page.get_by_role("log", name="conversation")).to_have_count(1)
    snapshot = await chat.page.locator("body").aria_snapshot()
    assert "- button\n" not in snapshot
    assert "- textbox\n" not in snapshot
