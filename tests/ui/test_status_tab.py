"""What the operator sees in a browser."""

import pytest
from playwright.async_api import expect

from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import MINIATURE, SLOTS, PageStack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_workers_rates_memory_and_errors_are_told(chat: ChatPage):
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.ask_fully("[[fail=0]]", "")
    panel = await chat.open_tab("Status")

    workers = panel.locator("#status-workers tbody tr")
    await expect(workers).to_have_count(3)
    for model in (MODEL, MINIATURE):
        await expect(workers.filter(has_text=model).first).to_contain_text("ready")
    await expect(panel.locator("#status-rates")).to_contain_text("generated tokens/s")
    await expect(panel.locator("#status-rates")).to_contain_text(MODEL)  # after two readings
    await expect(panel.locator("#status-cards")).to_contain_text("No host has told")  # no launcher
    await expect(panel.locator("#status-errors tbody tr").first).to_be_visible()


async def test_it_follows_what_happens(chat: ChatPage, platform: PageStack):
    panel = await chat.open_tab("Status")
    busy = panel.locator("#status-workers").get_by_text(f"1 of {SLOTS}")
    await expect(panel.locator("#status-workers tbody tr")).to_have_count(3)
    await expect(busy).to_have_count(0)

    await chat.open_tab("Chat")
    await chat.ask("[[n=2000 d=100]]")
    await expect(chat.answers).to_contain_text("zq0002")
    await chat.open_tab("Status")

    await expect(busy).to_have_count(1)
    await chat.open_tab("Chat")
    await chat.button("Stop").click()
    await expect(chat.answers).to_contain_text("Stopped.")
