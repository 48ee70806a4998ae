"""What is asked of a chat whose answer still grows."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import PageStack, answers

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

UNDER_WAY = "An answer is under way"


async def test_a_second_question_waits_in_the_input(chat: ChatPage):
    await chat.ask("[[n=100 d=50]]")
    await expect(chat.answers.last).to_contain_text("zq0003")

    await chat.ask("another one")

    await expect(chat.page.get_by_text(UNDER_WAY).first).to_be_visible()
    await expect(chat.question).to_have_value("another one")
    await expect(chat.asked).to_have_count(1)
    await chat.button("Stop").click()
    await expect(chat.answers.last).to_contain_text("Stopped.")


@pytest.mark.parametrize("name", ["Undo", "Retry"])
async def test_it_is_neither_taken_back_nor_asked_again(chat: ChatPage, name: str):
    await chat.ask("[[n=100 d=50]]")
    await expect(chat.answers.last).to_contain_text("zq0003")

    await chat.button(name).click()

    await expect(chat.page.get_by_text(UNDER_WAY).first).to_be_visible()
    await expect(chat.answers).to_have_count(1)
    await expect(chat.question).to_have_value("")
    await chat.button("Stop").click()
    await expect(chat.answers.last).to_contain_text("Stopped.")


async def test_a_question_that_waits_for_a_place_is_asked_once_and_none_in_its_place(
    browser: Browser, platform: PageStack, tmp_path: Path
):
    url = platform.stack.add_page(GALEN_UI_TEMP_DIR=str(tmp_path), GALEN_UI_AT_ONCE="1")
    await answers(url)
    async with (
        ChatPage.opened(browser, url, MODEL) as before,
        ChatPage.opened(browser, url, MODEL) as chat,
    ):
        await before.ask("[[n=400 d=50]]")
        await expect(before.answers.last).to_contain_text("zq0003")

        await chat.ask("the first [[n=3]]")
        await expect(chat.question).to_have_value("")
        await chat.ask("the second [[n=9]]")

        await expect(chat.page.get_by_text(UNDER_WAY).first).to_be_visible()
        await expect(chat.question).to_have_value("the second [[n=9]]")
        await expect(chat.asked).to_have_count(1)
        await before.button("Stop").click()
        await expect(chat.answers).to_contain_text("zq0002")
        await chat.rests()
        await expect(chat.asked).to_have_count(1)
        await expect(chat.asked).to_contain_text("the first")
        await chat.question.press("Enter")
        await expect(chat.answers.last).to_contain_text("zq0008")
        await expect(chat.answers).to_have_count(2)
