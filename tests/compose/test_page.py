"""The page in a browser: log in, ask about a scan, run an evaluation."""

import pytest
from playwright.async_api import Browser, expect

from tests.compose.composition import MINIATURE, Composition
from tests.support.browser import needs_browser
from tests.support.program import ROOT
from tests.ui.chat_page import ChatPage
from tests.ui.test_login import log_in

pytestmark = [*needs_browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_person_logs_in_asks_and_evaluates(
    browser: Browser, composition: Composition, api_key: str
) -> None:
    url = f"http://{composition.address('ui', 7860)}"
    context = await browser.new_context(viewport={"width": 1280, "height": 1000})
    try:
        chat = await ChatPage.within(context, url)
        await chat.page.goto(f"{url}/?model={MINIATURE}")
        await log_in(chat.page, api_key)
        await expect(chat.state).to_contain_text("ready")

        await chat.upload(ROOT / "modeling" / "demo_model" / "ct.png")
        await chat.ask("Which modality is this image?")
        await expect(chat.answers.last).to_contain_text("CT")

        panel = await chat.open_tab("Evaluation")
        await expect(panel.locator("#evaluation-about")).to_contain_text("questions.")
        await panel.locator("#evaluation-model input").click()
        await chat.page.get_by_role("option", name=MINIATURE, exact=True).click()
        await panel.get_by_label("Number of questions").fill("8")
        await panel.get_by_role("button", name="Start", exact=True).click()
        progress = panel.locator("#evaluation-progress")
        await expect(progress).to_contain_text("8 answered, 0 failed, of 8 questions")
        await expect(progress).to_contain_text("Done.")
        await expect(panel.locator("#evaluation-scores table").first).to_contain_text("accuracy")
        assert chat.elsewhere == []
        assert chat.errors == []
    finally:
        await context.close()
