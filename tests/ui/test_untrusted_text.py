"""What models and people write is shown, and never run."""

import pytest
from playwright.async_api import expect

from tests.support.browser import MARK, Beacon, needs_browser
from tests.ui.chat_page import ChatPage

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

RUNNING = "script, iframe, svg[onload], img[onerror], a[href^='javascript:']"


async def test_hostile_text_of_a_model_is_text(chat: ChatPage, beacon: Beacon):
    await chat.ask_fully("what is hostile", "after")

    shown = chat.answers.locator(".md")
    await expect(shown).to_contain_text(f"<script>document.title='{MARK}'</script>")
    await expect(shown).to_contain_text("<img src=http://")
    await expect(shown.locator(RUNNING)).to_have_count(0)
    assert await chat.page.title() != MARK
    assert beacon.asked == []


async def test_hostile_text_of_a_person_is_text(chat: ChatPage):
    question = f"<img src=x onerror=\"document.title='{MARK}'\"> [[n=3]]"
    await chat.ask_fully(question, "zq0002")

    await expect(chat.asked).to_contain_text("<img src=x onerror=")
    await expect(chat.asked.locator(RUNNING)).to_have_count(0)
    assert await chat.page.title() != MARK


async def test_markdown_is_shown_as_such(chat: ChatPage):
    await chat.ask_fully("what is markdown", "second")

    shown = chat.answers.locator(".md")
    await expect(shown.locator("strong")).to_have_text("bold")
    await expect(shown.locator("td")).to_have_text(["left", "small"])
    await expect(shown.locator("li")).to_have_text(["first", "second"])


async def test_every_answer_says_what_it_is_not_for(chat: ChatPage):
    await chat.ask_fully("[[n=3]]", "zq0002")

    said = await chat.answers.evaluate(
        """(bot) => [bot, ...bot.querySelectorAll("*")]
             .map((each) => getComputedStyle(each, "::after").content)
             .filter((each) => each.includes("Research use only"))"""
    )
    assert len(said) == 1
