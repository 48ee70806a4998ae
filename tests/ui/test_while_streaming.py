"""What is asked of a chat whose answer still grows."""

import pytest
from playwright.async_api import expect

from tests.support.browser import needs_browser
from tests.ui.chat_page import ChatPage

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
