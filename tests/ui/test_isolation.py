"""Two people at once: neither sees anything of the other, and what they uploaded goes with them."""

import pytest
from playwright.async_api import Browser, expect

from tests.gateway.media.image_files import noise, saved
from tests.modeling.medical_images.dicom_files import ct
from tests.support.browser import needs_browser
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage, payload
from tests.ui.page_stack import PageStack
from tests.ui.test_medical_images import FRAMES

pytestmark = [*needs_browser, pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_nobody_sees_the_images_of_another(
    chat: ChatPage, browser: Browser, platform: PageStack
):
    await chat.upload(
        payload("mine.png", "image/png", saved(noise(60, 60, 3), "PNG")),
        payload("mine.dcm", "application/dicom", ct(FRAMES + 3)),
    )
    await chat.ask_fully("a secret question [[n=3]]", "zq0002")
    pictures = [
        await each.get_attribute("src") for each in await chat.page.locator("#chat img").all()
    ]
    uploads = [
        f"{platform.url}/gradio_api/file={file}"
        for name in ("mine.png", "mine.dcm")
        for file in platform.uploaded(name)
    ]
    assert len(pictures) == len(uploads) == 2
    urls = [url for url in (*pictures, *uploads) if url]
    assert [(await chat.page.request.get(url)).status for url in urls] == [200] * 4

    async with ChatPage.opened(browser, platform.url, MODEL) as other:
        assert [(await other.page.request.get(url)).status for url in urls] == [404] * 4
        await expect(other.asked).to_have_count(0)
        assert "secret" not in await other.page.content()
        await other.ask_fully("[[n=4]]", "zq0003")
        await expect(other.answers).to_have_count(1)

    await expect(chat.answers).to_have_count(1)


async def test_one_session_cannot_follow_the_events_of_another(
    chat: ChatPage, browser: Browser, platform: PageStack
):
    """Answers come over a stream that is named by the page's own, secret hash."""
    joined: list[str] = []
    chat.page.on("request", lambda asked: joined.append(asked.url))
    await chat.ask_fully("[[n=3]]", "zq0002")
    streams = [url for url in joined if "/queue/data" in url]
    assert streams

    async with ChatPage.opened(browser, platform.url, MODEL) as other:
        status = await other.page.evaluate(
            """async (url) => {
                 const answer = await fetch(url, {signal: AbortSignal.timeout(3000)});
                 return [answer.status, answer.ok ? await answer.text() : ""];
               }""",
            streams[-1],
        )
        assert "zq0002" not in status[1]
