"""Questions and answers in a real browser, and what can be done with them."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.gateway.media.image_files import noise, saved
from tests.support.browser import needs_browser
from tests.support.program import ROOT
from tests.support.stack import MODEL
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import MINIATURE, PageStack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

LONG = "[[n=2000 d=100]]"
CT = ROOT / "modeling" / "demo_model" / "ct.png"


async def test_a_picture_is_asked_about_twice(browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url, MINIATURE) as chat:
        await chat.upload(CT)
        await expect(chat.seen).to_be_visible()
        await chat.ask_fully("Which modality is this?", "CT")
        await expect(chat.page.locator("#chat .user img")).to_have_count(1)
        await expect(chat.thumbnails).to_have_count(0)

        await chat.ask_fully("Which organ is shown?", "")

        await expect(chat.answers).to_have_count(2)
        await expect(chat.answers.first).to_contain_text("CT")
        assert re.search(r"\w", await chat.text_of_last())


async def test_earlier_turns_are_sent_along(chat: ChatPage, platform: PageStack):
    await chat.ask_fully("one two three four five six seven [[n=3]]", "zq0002")
    before = await platform.stack.metric("galen_gateway_prompt_tokens_total")

    await chat.ask_fully("and [[n=4]]", "zq0003")

    sent = await platform.stack.metric("galen_gateway_prompt_tokens_total") - before
    assert sent >= 8 + 3 + 2  # both questions and the answer between them


async def test_an_example_asks_at_the_first_click(browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url, MINIATURE) as chat:
        await chat.page.locator("#chat .example").first.click()

        await expect(chat.answers).to_contain_text("CT")
        await expect(chat.page.locator("#chat .user img")).to_be_visible()


async def test_an_answer_grows_as_it_comes(chat: ChatPage):
    await chat.ask("[[n=60 d=40]]")

    await expect(chat.answers).to_contain_text("zq0002")
    assert "zq0059" not in await chat.answers.inner_text()
    await expect(chat.answers).to_contain_text("zq0059")


async def test_stop_ends_the_request_at_the_worker(chat: ChatPage, platform: PageStack):
    await chat.ask(LONG)
    await expect(chat.answers).to_contain_text("zq0002")
    assert platform.stack.num_running() == 1

    await chat.button("Stop").click()

    await expect(chat.answers).to_contain_text("Stopped.")
    await eventually(lambda: platform.stack.num_running() == 0, 5, "the end of the request")
    await chat.ask_fully("[[n=3]]", "zq0002")
    await expect(chat.answers).to_have_count(2)


@pytest.mark.parametrize("way", ["below the chat", "at the message"])
async def test_retry_asks_again(way: str, chat: ChatPage, platform: PageStack):
    await chat.ask_fully("[[n=3]]", "zq0002")
    before = await platform.stack.metric("galen_gateway_finished_choices_total")

    retry = chat.button("Retry") if way == "below the chat" else chat.of_message("Retry")
    await retry.click()

    async def is_asked() -> bool:
        return await platform.stack.metric("galen_gateway_finished_choices_total") > before

    await eventually(is_asked, 5, "another request")
    await expect(chat.answers).to_contain_text("zq0002")
    await expect(chat.answers).to_have_count(1)


async def test_an_edited_question_gets_another_answer(chat: ChatPage):
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.ask_fully("[[n=4]]", "zq0003")

    await chat.of_message("Edit").click()
    await chat.page.locator("#chat .user textarea").fill("[[n=6]]")
    await chat.of_message("Submit").click()

    await expect(chat.answers).to_have_count(1)  # what came after is gone
    await expect(chat.answers).to_contain_text("zq0005")
    await expect(chat.asked).to_contain_text("[[n=6]]")


async def test_undo_takes_a_question_back_with_its_image(chat: ChatPage):
    await chat.upload(CT)
    await chat.ask_fully("An image [[n=3]]", "zq0002")

    await chat.button("Undo").click()

    await expect(chat.answers).to_have_count(0)
    await expect(chat.question).to_have_value("An image [[n=3]]")
    await expect(chat.thumbnails).to_have_count(1)
    await chat.question.press("Enter")
    await expect(chat.answers).to_contain_text("zq0002")
    await expect(chat.page.locator("#chat .user img")).to_be_visible()


async def test_a_new_conversation_deletes_the_files_of_the_old_one(
    chat: ChatPage, platform: PageStack
):
    await chat.upload(payload("gone.png", "image/png", saved(noise(60, 60, 1), "PNG")))
    await chat.ask_fully("[[n=3]]", "zq0002")
    assert len(platform.uploaded("gone.png")) == 1

    await chat.button("New conversation").click()

    await expect(chat.asked).to_have_count(0)
    await eventually(lambda: not platform.uploaded("gone.png"), 5, "the end of the file")
    await chat.ask_fully("[[n=4]]", "zq0003")


async def test_what_is_typed_at_once_into_a_new_conversation_is_kept(chat: ChatPage):
    await chat.ask_fully("[[n=3]]", "zq0002")

    await chat.button("New conversation").click()
    await chat.question.press_sequentially("typed at once")

    await expect(chat.asked).to_have_count(0)
    await expect(chat.question).to_have_value("typed at once")


async def test_a_conversation_is_saved_as_a_file(chat: ChatPage, tmp_path: Path):
    await chat.upload(CT)
    await chat.ask_fully("Which sentence is it?", "The left lung is clear.")

    async with chat.page.expect_download() as download:
        await chat.button("Save").click()
    await (await download.value).save_as(tmp_path / "saved.md")

    text = (tmp_path / "saved.md").read_text(encoding="utf-8")
    assert re.search(r"Images: ct\.png\n\nWhich sentence is it\?\n", text)
    assert f"## Answer of {MODEL}\n\nThe left lung is clear." in text
    assert "Research use only, not for clinical decisions." in text


async def test_the_address_chooses_the_model(browser: Browser, platform: PageStack):
    for model in (MODEL, MINIATURE):
        async with ChatPage.opened(browser, platform.url, model) as chat:
            await expect(chat.model).to_have_value(model)


async def test_a_model_that_is_not_served_is_called_gone(browser: Browser, platform: PageStack):
    async with ChatPage.opened(browser, platform.url) as chat:
        await chat.page.goto(f"{platform.url}/?model=no-such-model")

        await expect(chat.state).to_contain_text("gone")
        await chat.ask("[[n=3]]")
        await expect(chat.answers).to_contain_text("Choose another model")
        await chat.choose("Model", MODEL)
        await chat.button("Retry").click()
        await expect(chat.answers).to_contain_text("zq0002")


async def test_parameters_reach_the_model(chat: ChatPage):
    await chat.page.get_by_role("button", name="Parameters").click()
    longest = chat.page.get_by_label("number input for Longest answer, in tokens")
    await longest.fill("2")
    await longest.press("Tab")

    await chat.ask_fully("[[n=9]]", "Cut at the longest answer")

    assert "zq0002" not in await chat.answers.inner_text()


async def test_no_seed_is_shown_where_none_is_sent(chat: ChatPage):
    await chat.page.get_by_role("button", name="Parameters").click()

    seed = chat.page.get_by_label("Seed").filter(visible=True)
    await expect(seed).to_have_value("")


async def test_with_nothing_asked_no_button_does_harm(chat: ChatPage):
    await chat.question.fill("half a question")
    for name in ("Stop", "Retry", "Undo", "New conversation"):
        await chat.button(name).click()
    await expect(chat.question).to_have_value("")  # the last of them is done

    await chat.ask_fully("[[n=3]]", "zq0002")
    await expect(chat.page.locator(".toast-wrap .error")).to_have_count(0)


async def test_a_question_without_words_asks_nothing(chat: ChatPage):
    await chat.upload(CT)
    await chat.ask("   ")

    await expect(chat.page.get_by_text("Write a question")).to_be_visible()
    await expect(chat.thumbnails).to_have_count(1)
    await expect(chat.asked).to_have_count(0)
