"""Two models asked at once in a browser, and a blind vote on what they say."""

import pytest
from playwright.async_api import Browser, expect

from tests.support.browser import needs_browser
from tests.support.program import ROOT
from tests.support.stack import MODEL
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import MINIATURE, PageStack
from tests.ui.test_votes import votes

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CT = ROOT / "modeling" / "demo_model" / "ct.png"


async def test_names_are_told_after_the_vote_and_the_vote_is_kept(
    browser: Browser, platform: PageStack
):
    before = len(votes(platform.store))
    async with ChatPage.opened(browser, platform.url, MODEL) as chat:
        panel = await chat.open_tab("Compare")
        sides = [panel.locator(f"#compare-answer-{letter}") for letter in "ab"]
        await expect(panel.get_by_label("First model", exact=True)).to_have_value(MODEL)
        await expect(panel.get_by_label("Second model", exact=True)).to_have_value(MINIATURE)
        await chat.page.set_input_files("#compare-question input[type=file]", CT)
        await expect(panel.locator("#compare-seen-picture img")).to_be_visible()

        await panel.locator("#compare-question textarea").fill("Which sentence is it?")
        await panel.locator("#compare-question textarea").press("Enter")

        vote = panel.get_by_role("button", name="A is better")
        await expect(vote).to_be_enabled()
        texts = [await side.locator(".message.bot .md").inner_text() for side in sides]
        assert all(text.strip() for text in texts)
        assert sum("The left lung is clear." in text for text in texts) == 1
        for side in sides:
            await expect(side).not_to_contain_text(MODEL)
            await expect(side).not_to_contain_text(MINIATURE)

        await vote.click()

        names = panel.locator("#compare-names")
        await expect(names).to_contain_text("Your vote was kept (A up, B down)")
        is_first = "The left lung is clear." in texts[0]
        order = (MODEL, MINIATURE) if is_first else (MINIATURE, MODEL)
        for letter, side, model in zip("AB", sides, order, strict=True):
            await expect(side).to_contain_text(f"Answer {letter}: {model} at temperature 0.2")
        await eventually(lambda: len(votes(platform.store)) == before + 2, 5, "both votes")
        kept = {vote["model"]: vote["rating"] for vote in votes(platform.store)[before:]}
        assert kept == dict(zip(order, ("up", "down"), strict=True))


async def test_a_comparison_can_be_stopped_and_begun_anew(chat: ChatPage, platform: PageStack):
    panel = await chat.open_tab("Compare")
    await chat.choose("Second model", MODEL)
    question = panel.locator("#compare-question textarea")
    await question.fill("[[n=2000 d=100]]")
    await question.press("Enter")
    for letter in "ab":
        await expect(panel.locator(f"#compare-answer-{letter}")).to_contain_text("zq0002")

    await panel.get_by_role("button", name="Stop").click()

    await eventually(lambda: platform.stack.num_running() == 0, 5, "the end of both requests")
    for letter in "ab":
        await expect(panel.locator(f"#compare-answer-{letter}")).to_contain_text("Stopped.")
    await panel.get_by_role("button", name="New comparison").click()
    await expect(panel.locator(".message.bot")).to_have_count(0)
