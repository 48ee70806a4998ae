"""What a person sees of it when parts of the platform die."""

import asyncio
import re
import signal

import pytest
from playwright.async_api import expect

from tests.support.browser import needs_browser
from tests.support.client import Client
from tests.support.history import Record
from tests.support.waiting import eventually
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import MOST_WAITING, SLOTS, PageStack

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

AWAY = "The gateway cannot be reached."
WHOLE = " ".join(f"zq{index:04d}" for index in range(100))


async def test_an_answer_goes_on_when_its_worker_dies(chat: ChatPage, platform: PageStack):
    stack = platform.stack
    await chat.ask("[[n=100 d=40]]")
    await expect(chat.answers).to_contain_text("zq0005")
    victim = stack.busiest()

    stack.kill_worker(victim)

    try:
        await expect(chat.answers).to_contain_text("zq0099")
        await chat.rests()
        assert " ".join((await chat.text_of_last()).split()) == WHOLE  # none twice, none missing
    finally:
        victim.start()
        await stack.healthy()


async def test_the_page_says_that_the_gateway_is_away_and_comes_back_by_itself(
    chat: ChatPage, platform: PageStack
):
    gateway = platform.stack.gateways[0]
    away = chat.page.locator("#away")
    await chat.ask_fully("[[n=3]]", "zq0002")
    await chat.page.evaluate("window.wasNotReloaded = true")
    try:
        gateway.send(signal.SIGKILL)
        await expect(away).to_contain_text(AWAY)
        await chat.ask("[[n=4]]")
        await expect(chat.answers.last).to_contain_text(AWAY)
    finally:
        assert gateway.process is not None
        gateway.process.wait(10)
        gateway.start()
        await platform.stack.healthy()

    await expect(away).to_be_hidden()
    await expect(chat.state).to_contain_text("ready")
    await chat.button("Retry").click()
    await expect(chat.answers.last).to_contain_text("zq0003")
    await expect(chat.answers).to_have_count(2)
    assert await chat.page.evaluate("window.wasNotReloaded")


async def test_an_answer_that_breaks_off_says_so_and_keeps_what_came(
    chat: ChatPage, platform: PageStack
):
    gateway = platform.stack.gateways[0]
    await chat.ask("[[n=400 d=40]]")
    await expect(chat.answers).to_contain_text("zq0005")
    try:
        gateway.send(signal.SIGKILL)
        await expect(chat.answers).to_contain_text("broke before the answer was complete")
        await expect(chat.answers).to_contain_text("zq0005")
    finally:
        assert gateway.process is not None
        gateway.process.wait(10)
        gateway.start()
        await platform.stack.healthy()


async def test_a_full_queue_names_the_wait(chat: ChatPage, platform: PageStack):
    stack = platform.stack
    most, asking = 2 * SLOTS + MOST_WAITING, list[asyncio.Task[Record]]()
    try:
        for number in range(1, most + 1):  # one by one: the queue has few places
            asking.append(asyncio.create_task(Client(stack.port).ask("[[n=2000 d=100]]")))
            await eventually(lambda: stack.num_running() + stack.num_waiting() == number, 10)  # noqa: B023 - called at once
        await chat.ask("[[n=3]]")
        await expect(chat.answers).to_contain_text(re.compile(r"Try again in \d+ s\."))
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await stack.healthy()
