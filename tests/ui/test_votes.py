"""Votes that are given in a browser, as they stand in the database."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.gateway.media.image_files import noise, saved
from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import PageStack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


def votes(store: Path) -> list[dict[str, Any]]:
    """Return all votes, the oldest first."""
    with sqlite3.connect(f"file:{store / 'galen.db'}?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        found = database.execute("SELECT * FROM feedback ORDER BY created_ms, id").fetchall()
    database.close()
    return [dict(row) for row in found]


async def test_a_thumb_is_kept_at_once(chat: ChatPage, platform: PageStack):
    before = len(votes(platform.store))
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.ask_fully("[[n=4]]", "zq0003")

    await chat.of_message("Like").click()

    await expect(chat.page.get_by_text("Your vote was kept: up")).to_be_visible()
    kept = votes(platform.store)[before:]
    assert [(vote["rating"], vote["model"], vote["consent"]) for vote in kept] == [("up", MODEL, 0)]
    assert kept[0]["request_id"].startswith("chatcmpl-")
    assert kept[0]["conversation"] is None


async def test_more_is_said_with_consent(chat: ChatPage, platform: PageStack):
    before = len(votes(platform.store))
    await chat.upload(payload("scan.png", "image/png", saved(noise(60, 60, 2), "PNG")))
    await chat.ask_fully("Which sentence is it?", "The left lung is clear.")
    await chat.of_message("Dislike").click()
    page = chat.page
    await expect(page.get_by_text("Your vote was kept: down")).to_be_visible()

    await page.get_by_label("Reason").fill("it is the right lung")
    await page.get_by_label("What it should have been").fill("The right lung is clear.")
    await page.get_by_label("This conversation, with its images").check()
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_text("A pseudonym and a licence are needed")).to_be_visible()
    await page.get_by_label("Pseudonym of the patient or study").fill("study-7")
    await page.get_by_label("Licence").fill("CC-BY-4.0")
    await page.get_by_role("button", name="Send", exact=True).click()

    await eventually(lambda: votes(platform.store)[-1]["consent"], 5, "the consent")
    (vote,) = votes(platform.store)[before:]
    assert vote["rating"] == "down"
    assert vote["reason"] == "it is the right lung"
    assert vote["corrected_answer"] == "The right lung is clear."
    assert (vote["subject"], vote["licence"]) == ("study-7", "CC-BY-4.0")
    assert "The left lung is clear." in vote["conversation"]
    assert "sha256" in vote["images"]


async def test_a_flag_is_kept_without_its_reason_where_nobody_consented(
    chat: ChatPage, platform: PageStack
):
    before = len(votes(platform.store))
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.of_message("Feedback").hover()
    await chat.page.locator("#chat").get_by_role("button", name="Flag").click()
    await expect(chat.page.get_by_text("Your vote was kept: flag")).to_be_visible()

    await chat.page.get_by_label("Reason").fill("not for the archive")
    await chat.page.get_by_role("button", name="Send", exact=True).click()

    await expect(chat.page.get_by_text("Your vote was kept: flag")).to_be_visible()
    (vote,) = votes(platform.store)[before:]
    assert (vote["rating"], vote["consent"], vote["reason"]) == ("flag", 0, None)


async def test_what_was_said_of_one_answer_is_not_sent_with_another(
    chat: ChatPage, platform: PageStack
):
    """A consent, a pseudonym and a correction are one patient's."""
    page = chat.page
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.of_message("Like").click()
    await expect(page.get_by_text("Your vote was kept: up")).to_be_visible()
    await page.get_by_label("This conversation, with its images").check()
    await page.get_by_label("Pseudonym of the patient or study").fill("patient-1")
    await page.get_by_label("What it should have been").fill("of patient one")

    await chat.button("New conversation").click()
    await expect(page.get_by_label("Reason")).to_be_hidden()
    await chat.ask_fully("[[n=4]]", "zq0003")
    await expect(page.get_by_label("Reason")).to_be_hidden()
    before = len(votes(platform.store))
    await chat.of_message("Like").click()
    await expect(page.get_by_text("Your vote was kept: up")).to_be_visible()
    await expect(page.get_by_label("What it should have been")).to_have_value("")
    await expect(page.get_by_label("This conversation, with its images")).not_to_be_checked()
    await page.get_by_role("button", name="Send", exact=True).click()

    await eventually(lambda: len(votes(platform.store)) > before, 5, "the vote")
    vote = votes(platform.store)[-1]
    assert (vote["consent"], vote["subject"], vote["corrected_answer"]) == (0, None, None)


async def test_what_is_refused_leaves_a_half_written_vote(chat: ChatPage):
    page, reason = chat.page, chat.page.get_by_label("Reason")
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.ask("[[n=100 d=50]]")
    await expect(chat.answers.last).to_contain_text("zq0003")
    await chat.of_message("Like").click()
    await expect(page.get_by_text("Your vote was kept: up")).to_be_visible()
    await reason.fill("half of a")

    for name in ("Undo", "Retry"):
        await chat.button(name).click()
        await expect(page.get_by_text("An answer is under way").first).to_be_visible()
    await chat.button("Stop").click()
    await expect(chat.answers.last).to_contain_text("Stopped.")
    await chat.ask("   ")
    await expect(page.get_by_text("Write a question")).to_be_visible()

    await expect(reason).to_have_value("half of a")
    await chat.button("Undo").click()
    await expect(reason).to_be_hidden()
