"""An evaluation that is started in a browser, followed, ended and read."""

import json
import re

import pytest
from playwright.async_api import Browser, expect

from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import MINIATURE, PageStack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SLOW = [
    {"type": "item", "id": str(number), "question": "[[n=2000 d=50]]", "reference": "yes",
     "is_closed": True}
    for number in range(3)
]  # fmt: skip


async def test_an_evaluation_is_run_to_its_scores(browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url, MODEL) as chat:
        panel = await chat.open_tab("Evaluation")
        await expect(panel.locator("#evaluation-about")).to_contain_text("questions.")
        await panel.locator("#evaluation-model input").click()
        await chat.page.get_by_role("option", name=MINIATURE, exact=True).click()
        await panel.get_by_label("Number of questions").fill("4")

        await panel.get_by_role("button", name="Start", exact=True).click()

        await expect(panel.locator("#evaluation-said")).to_contain_text("Started")
        progress = panel.locator("#evaluation-progress")
        await expect(progress).to_contain_text("4 answered, 0 failed, of 4 questions")
        await expect(progress).to_contain_text("Done.")
        scores = panel.locator("#evaluation-scores")
        await expect(scores.locator("table").first).to_contain_text("accuracy")
        assert re.search(r"\d+\.\d", await scores.inner_text())
        await panel.get_by_role("button", name="Report").click()
        async with chat.page.expect_response(re.compile("queue/join")):
            await panel.get_by_role("button", name="Get its files").click()
        downloads = panel.locator("#evaluation-downloads")
        await expect(downloads).to_contain_text("-receipt")

    # it lives at the gateway: another session finds it
    async with ChatPage.opened(browser, platform.url, MODEL) as other:
        panel = await other.open_tab("Evaluation")
        await expect(panel.locator("#evaluation-progress")).to_contain_text("Done.")


async def test_an_evaluation_can_be_cancelled(chat: ChatPage):
    panel = await chat.open_tab("Evaluation")
    lines = "".join(json.dumps(line) + "\n" for line in SLOW).encode()
    await panel.locator("#evaluation-file input[type=file]").set_input_files(
        payload("slow.jsonl", "application/jsonl", lines)
    )
    await expect(panel.locator("#evaluation-about")).to_contain_text("3 questions.")
    await panel.locator("#evaluation-model input").click()
    await chat.page.get_by_role("option", name=MODEL, exact=True).click()
    await panel.get_by_role("button", name="Decoding").click()
    longest = panel.get_by_label("number input for Longest answer, in tokens")
    await longest.fill("1024")
    await longest.press("Tab")
    await panel.get_by_role("button", name="Start", exact=True).click()
    cancel = panel.get_by_role("button", name="Cancel", exact=True)
    await expect(panel.locator("#evaluation-progress")).to_contain_text("slow")

    await cancel.click()

    await expect(panel.locator("#evaluation-progress")).to_contain_text("Cancelled")
    await expect(cancel).to_be_hidden()


async def test_a_file_that_holds_no_questions_is_refused(chat: ChatPage):
    panel = await chat.open_tab("Evaluation")

    await panel.locator("#evaluation-file input[type=file]").set_input_files(
        payload("none.jsonl", "application/jsonl", b"{}\n")
    )

    await expect(panel.locator("#evaluation-about")).to_contain_text("The question file is refused")
